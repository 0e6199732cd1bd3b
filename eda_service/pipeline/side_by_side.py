"""Published packs measured beside a job's own: loading those that fit, and the fixed evaluation of the pack's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from eda_service.config.job import AdaptConfig
from eda_service.decoding.build import load_drafts, make_engine
from eda_service.decoding.request import own_params
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.errors import EdaError
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.decode import decode_all
from eda_service.records import FixedScores, TargetFingerprint
from eda_service.selfgen.prompts import Prompt
from eda_service.storage.published import fixed_evaluation
from eda_service.storage.published.compatibility import check_pack_fits
from eda_service.storage.published.fixed_evaluation import FixedEvaluation
from eda_service.storage.published.registry import find_draft, find_pack, read_pack_manifest
from eda_service.storage.runs.rivals import Rivals
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.ends import TargetEnds
from eda_service.targets.loader import Target

PREFIX = "pack:"
"""Prefix of a rival's name among the drafts of an evaluation: `pack:math@3`."""


@dataclass
class LoadedRivals:
    """The loaded rivals by name@version.

    Attributes:
        drafts: Rivals that are ready to decode.
        left_out: Reasons why the other rivals were left out.
    """

    drafts: dict[str, LoadedDraft] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def load_rivals(rivals: Rivals, target: TargetEnds, fingerprint: TargetFingerprint) -> LoadedRivals:
    """Load the rivals that can be loaded; the others do not fail the job.

    Args:
        rivals: Rivals that the dispatcher named.
        target: Target to decode with.
        fingerprint: Fingerprint of that target; a pack for another one is left out.
    """
    found = LoadedRivals()
    for pack in rivals.packs:
        try:
            found.drafts[pack] = _load(pack, target, fingerprint)
        except EdaError as error:
            found.left_out[pack] = error.message
        except (OSError, ValueError) as error:
            found.left_out[pack] = f"{pack} cannot be read: {type(error).__name__}: {error}"[:400]
    return found


def _load(pack: str, target: TargetEnds, fingerprint: TargetFingerprint) -> LoadedDraft:
    directory = find_pack(pack)
    manifest = read_pack_manifest(directory)
    check_pack_fits(manifest, fingerprint)
    return load_drafts(find_draft(manifest.base_draft), directory, target=target)


def measure_fixed(
    config: AdaptConfig,
    target: TargetEnds,
    fingerprint: TargetFingerprint,
    *,
    owner: str,
    drafts: Mapping[str, LoadedDraft],
    heldout: Sequence[Prompt],
    measured: Mapping[str, float],
    length: Callable[[FixedEvaluation, Sequence[list[int]], LoadedDraft], float],
) -> FixedScores:
    """Measure the job's own pack on the fixed evaluation of its name and target, and the rivals that have no score
    there. If there is no fixed evaluation yet, the job's own prompts become it.

    Args:
        config: Config of the job.
        target: Target to decode with.
        fingerprint: Fingerprint of that target.
        owner: Owner of the pack.
        drafts: `adapted_draft`, and rivals by name@version.
        heldout: Prompts on which the job has measured.
        measured: Acceptance lengths of these drafts on those prompts, at the first temperature.
        length: Function that measures a draft's acceptance length on the fixed evaluation's prompts.

    Raises:
        ArtifactCorruptError: The fixed evaluation cannot be used.
    """
    name = config.public_name
    proposal = fixed_evaluation.propose(
        config, [prompt.messages for prompt in heldout], [prompt.beside for prompt in heldout]
    )
    fixed, digest = fixed_evaluation.find_or_create(name, fixed_evaluation.key_of(owner, fingerprint), proposal)
    if fixed == proposal and config.evaluation.tree is None and len(heldout) == len(fixed.prompts):
        return FixedScores(evaluation=digest, lengths={draft: measured[draft] for draft in drafts})
    known = fixed_evaluation.scored(name, digest)
    beside = fixed.beside or ({},) * len(fixed.prompts)
    prompts = [
        render_prompt(target.tokenizer, messages, **more) for messages, more in zip(fixed.prompts, beside, strict=True)
    ]
    lengths = {draft: length(fixed, prompts, loaded) for draft, loaded in drafts.items() if draft not in known}
    return FixedScores(evaluation=digest, lengths=lengths)


def decoded_length(
    fixed: FixedEvaluation, prompts: Sequence[list[int]], loaded: LoadedDraft, target: Target, max_batch: int
) -> float:
    """Measure the acceptance length of a draft that decodes a fixed evaluation beside a loaded target."""
    engine = make_engine(
        target,
        loaded,
        num_draft_tokens=fixed.num_draft_tokens,
        max_batch=max_batch,
        max_tokens=max(map(len, prompts)) + fixed.max_new_tokens,
    )
    own = own_params(target.defaults)
    params = replace(own, temperature=fixed.temperature, max_new_tokens=fixed.max_new_tokens)
    stats = decode_all(engine, prompts, params).stats
    return summarise("", fixed.temperature, stats, num_draft_tokens=fixed.num_draft_tokens).acceptance_length
