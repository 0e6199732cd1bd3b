"""The check of an imported draft: whether its file is read as its author meant it.

EAGLE-3 files look alike but count layers and place norms in different ways; a misread draft still drafts, only badly.
So the base target answers some prompts, keeping the layers of all readings in that one pass, and the draft is compared
with the answers: as declared and, if agreement is poor, under other readings. Each reading is the same weights under
another config. The result is reported and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from eda_service.decoding.request import own_params
from eda_service.draft_check import DraftCheck, Reading
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.coverage import coverage
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.draft_shape import target_rope
from eda_service.drafts.kinds import make_draft
from eda_service.engines.engine import TargetEngine
from eda_service.evaluation.replay import Transcript, transcribe
from eda_service.evaluation.teacher_forced import agreement
from eda_service.progress import ProgressCallback, no_progress
from eda_service.targets.ends import TargetEnds

NUM_PROMPTS = 20
MAX_NEW_TOKENS = 64
_CHAIN = 5
_POSITIONS = 4
_BATCH = 20
_PLAIN_THETA = 10_000.0  # for a file that names none
_EMBEDDING_ROWS = 4096  # rows compared at a time

Changes = dict[str, Any]
"""Fields of a draft's config whose values a reading changes."""


def check_draft(
    engine: TargetEngine,
    loaded: LoadedDraft,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    thorough: bool = False,
    on_progress: ProgressCallback = no_progress,
) -> DraftCheck:
    """Compare a draft with greedy answers of its base target.

    Args:
        engine: Engine that runs the base target.
        loaded: The base draft, in the target's dtype and on its device.
        prompts: Token ids of about twenty prompts.
        max_new_tokens: Largest number of tokens of an answer.
        thorough: Whether to try other readings also if the declared one is not poor.
        on_progress: Function that receives the progress of answers and readings.
    """
    target = engine.ends
    fitting = [ids for ids in prompts if len(ids) + max_new_tokens < target.max_context]
    singles = misreadings(loaded.draft.config, target)
    captures = layers_of_readings(loaded.draft.config, target)
    answers = _answers(engine, fitting, captures, max_new_tokens, on_progress)
    if not answers:
        return DraftCheck(
            skipped=f"the target answered none of {len(prompts)} prompts with two tokens or more within its context of "
            f"{target.max_context} tokens"
        )
    readings = _Readings(target, loaded, captures, answers, on_progress)
    declared = readings.take({})
    others = readings.search(singles) if thorough or declared.is_poor else ()
    return DraftCheck(
        num_prompts=len(answers),
        num_positions=readings.num_places,
        declared=declared,
        others=tuple(others),
        coverage=coverage(loaded.vocab_W, (each.token_ids[each.num_prompt_tokens :] for each in answers)).share,
        embedding_cosine=embedding_cosine(loaded.draft, target.embed),
    )


def layers_of_readings(config: DraftConfig, target: TargetEnds) -> list[int]:
    """Return the layers of the target that the readings of a draft of this config need."""
    shapes = [config.model_copy(update=changes) for changes in ({}, *misreadings(config, target))]
    return sorted({layer for shape in shapes for layer in shape.captures})


def misreadings(config: DraftConfig, target: TargetEnds) -> list[Changes]:
    """Return the likely intended configs of a file that declares this one, as changes of one field (or one rotation)
    each.

    Args:
        config: Config of the draft as declared.
        target: Base target of the draft.
    """
    num_layers = int(target.config.num_hidden_layers)
    found = [each for each in config.misreadings if max(each.get("layers", (0,))) <= num_layers]
    found += _rotations(config, target)
    if config.own_embedding and config.hidden_size == config.target_width:
        found.append({"own_embedding": False})
    return found


def _rotations(config: DraftConfig, target: TargetEnds) -> list[Changes]:
    """Return the plain rotation, the target's, the target's unscaled, and the declared one unscaled, each once."""
    theta, scaling = target_rope(target.config)
    declared: Changes = {"rope_theta": config.rope_theta, "rope_scaling": config.rope_scaling}
    found = list[Changes]()
    for rotation in ((_PLAIN_THETA, None), (theta, scaling), (theta, None), (config.rope_theta, None)):
        named = dict(zip(declared, rotation, strict=True))
        changes = {name: value for name, value in named.items() if value != declared[name]}
        if changes and changes not in found:
            found.append(changes)
    return found


def reading(draft: Draft, changes: Mapping[str, Any]) -> Draft:
    """Make a draft with the same weights under a changed config; no tensor is copied.

    Args:
        draft: A base draft as declared.
        changes: Changed fields, which keep the shape of every tensor; the draft's own embedding may be left out.
    """
    if not changes:
        return draft
    with torch.device("meta"):
        other = make_draft(draft.config.model_copy(update=dict(changes)))
    weights = draft.state_dict()
    other.load_state_dict({name: weights[name] for name in other.state_dict()}, assign=True)
    return other.requires_grad_(False).eval()


@torch.inference_mode()
def embedding_cosine(draft: Draft, embed: nn.Module) -> float | None:
    """Compute the mean cosine of the rows of a draft's own embedding with the target's; None if it has
    none to compare.
    """
    own, theirs = draft.embedding(embed).weight, embed.weight
    assert isinstance(own, Tensor)
    assert isinstance(theirs, Tensor)
    if own is theirs or own.shape[1] != theirs.shape[1]:
        return None
    rows = min(len(own), len(theirs))
    pairs = zip(own[:rows].split(_EMBEDDING_ROWS), theirs[:rows].split(_EMBEDDING_ROWS), strict=True)
    return sum(float(torch.cosine_similarity(a.float(), b.float()).double().sum()) for a, b in pairs) / rows


def _answers(
    engine: TargetEngine,
    prompts: Sequence[Sequence[int]],
    captures: Sequence[int],
    max_new_tokens: int,
    on_progress: ProgressCallback,
) -> list[Transcript]:
    """Let the target write greedy answers, and keep those of two tokens or more: the first token comes from the
    prefill.
    """
    params = replace(own_params(engine.ends.defaults), temperature=0.0, max_new_tokens=max_new_tokens)
    answered = transcribe(engine, prompts, params, batch_size=_BATCH, captures=captures, on_progress=on_progress)
    return [each for each in answered if len(each.token_ids) - each.num_prompt_tokens > 1]


class _Readings:
    """Measures readings of one draft over the same answers.

    Args:
        target: Target that wrote the answers.
        loaded: The draft as declared.
        captures: Layers whose states the answers have, side by side; empty: the head's inputs.
        answers: Greedy answers of the target.
        on_progress: Function that receives the progress of the readings.
    """

    def __init__(
        self,
        target: TargetEnds,
        loaded: LoadedDraft,
        captures: Sequence[int],
        answers: Sequence[Transcript],
        on_progress: ProgressCallback,
    ) -> None:
        self._target, self._loaded, self._captures, self._answers, self._on_progress = (
            target,
            loaded,
            captures,
            answers,
            on_progress,
        )
        self._lm_head = target.lm_head.take(loaded.vocab_W)
        self._num_taken = 0
        self.num_places = sum(len(each.token_ids) - each.num_prompt_tokens - 1 for each in answers)

    def search(self, singles: Sequence[Changes]) -> list[Reading]:
        """Measure every single change, and the best of them combined with each other field's; a file may have two
        mistakes.
        """
        found = [(changes, self.take(changes)) for changes in singles]
        if not found:
            return []
        best = max(found, key=lambda pair: (pair[1].acceptance_length, pair[1].agreement))[0]
        pairs = [{**best, **changes} for changes in singles if not best.keys() & changes.keys()]
        return [*(each for _, each in found), *map(self.take, pairs)]

    def take(self, changes: Changes) -> Reading:
        """Measure one reading."""
        draft, target = reading(self._loaded.draft, changes), self._target
        answers = [replace(each, features_TD=self._columns(each.features_TD, draft)) for each in self._answers]
        counts = agreement(draft, target.embed, self._lm_head, self._loaded.vocab_W, answers, depth=_CHAIN)
        self._num_taken += 1
        self._on_progress("reading", self._num_taken, None, "readings")
        return Reading(
            overrides={name: as_option(value) for name, value in changes.items()},
            agreement=counts.by_position[:_POSITIONS],
            acceptance_length=counts.acceptance_length,
        )

    def _columns(self, features_TU: Tensor, draft: Draft) -> Tensor:
        """Take the layers that a reading reads from all that were captured."""
        wanted = draft.config.captures
        if wanted == tuple(self._captures):
            return features_TU
        layers = dict(zip(self._captures, features_TU.chunk(len(self._captures), dim=-1), strict=True))
        return torch.cat([layers[layer] for layer in wanted], dim=-1)


def as_option(value: Any) -> str:
    """Format a field's value as JSON, as `--set` takes it."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    return json.dumps(value, separators=(",", ":"))
