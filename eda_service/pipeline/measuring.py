"""Drafts and targets by their files, brought together to be checked, measured, or found not worth an adaptation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from eda_service.config.job import AdaptConfig, EvalConfig, TargetSpec
from eda_service.decoding.build import load_drafts
from eda_service.draft_check import DraftCheck
from eda_service.errors import InputError, NotWorthItError
from eda_service.evaluation.draft_check import NUM_PROMPTS, check_draft
from eda_service.evaluation.measure import Measured, conclude, measure
from eda_service.measurement import Measurement
from eda_service.progress import Tell, silent
from eda_service.records import ADAPTED, BASE, DraftManifest
from eda_service.selfgen.prompts import Prompt, general_prompts
from eda_service.selfgen.refused import render_all
from eda_service.storage.provenance import machine
from eda_service.storage.registry import find_draft, find_draft_manifest
from eda_service.targets.ends import choose_dtype
from eda_service.targets.loader import Target, load_target
from eda_service.targets.resolve import resolve_target, shipped_base
from eda_service.targets.room import lacking_room

logger = logging.getLogger(__name__)


def check_staged(
    draft_dir: Path,
    spec: TargetSpec,
    *,
    device: torch.device,
    num_prompts: int = NUM_PROMPTS,
    thorough: bool = False,
    tell: Tell = silent,
) -> DraftCheck:
    """The measured check of a draft, over the general prompts that come with the package.

    Args:
        draft_dir: Its `config.json` and `draft.safetensors`.
        spec: Its base target, whose files are on this machine.
        device: Where to compute.
        num_prompts: The first of them.
        thorough: Look at other readings also where the declared one is not poor.
        tell: Told of answers and readings.

    Returns:
        What was measured; that it was skipped, and why, where the target finds no room here.
    """
    lacking = lacking_room(resolve_target(spec).model_dir, dtype=choose_dtype(spec, device), device=device)
    if lacking is not None:
        return DraftCheck(skipped=f"{spec.model} cannot answer here: {lacking}; check it on a larger machine")
    target = load_target(spec, device=device)
    prompts, _ = render_all(target.tokenizer, general_prompts(num_prompts, param="num_check_prompts"))
    loaded = load_drafts(draft_dir, None, target=target)
    return check_draft(target, loaded, list(prompts.values()), thorough=thorough, tell=tell)


def measure_draft(
    spec: TargetSpec,
    draft_dir: Path,
    pack_dir: Path | None,
    prompts: Sequence[Prompt],
    settings: EvalConfig,
    *,
    max_prompt_tokens: int,
    base: TargetSpec | None,
    device: torch.device,
    tell: Tell = silent,
) -> Measurement:
    """A draft, or a draft and a pack, on a target, and the draft on its own target; one target in memory at a time.

    Args:
        spec: The target.
        draft_dir: The base draft.
        pack_dir: A pack over it; None: the draft alone.
        prompts: Longer ones than the cap, and those that a target's template refuses, are left out.
        settings: Of the measurement.
        max_prompt_tokens: Longest prompt.
        base: The draft's own target; None: not measured.
        device: Where to compute.
        tell: Told of each decoding.

    Raises:
        DatasetInvalidError: No prompt is left.
    """

    def on(target: Target, pack: Path | None, *, timed: bool) -> Measured:
        return _measured(target, draft_dir, pack, prompts, settings, max_prompt_tokens, timed=timed, tell=tell)

    on_target = on(load_target(spec, device=device), pack_dir, timed=True)
    on_base = None if base is None else on(load_target(base, device=device), None, timed=False)
    return conclude(on_target, on_base, machine=machine())


def require_gain(config: AdaptConfig, target: Target, prompts: Sequence[Prompt]) -> None:
    """End a job whose draft loses too little on the tuned target for an adaptation to gain `min_gain`.

    Args:
        config: Of the job.
        target: The tuned target; the draft's own is loaded beside it.
        prompts: Held-out ones.

    Raises:
        NotWorthItError: Even all that was lost is less than `min_gain`.
        InputError: It is not known which target the draft is for.
    """
    if config.min_gain is None:
        return
    own = require_own_target(config, find_draft_manifest(config.base_draft))
    settings = config.evaluation.model_copy(update={"temperatures": config.evaluation.temperatures[:1]})
    most = config.selfgen.max_prompt_tokens
    draft_dir = find_draft(config.base_draft)
    both = (target, load_target(own, device=target.device))
    measured = [_measured(each, draft_dir, None, prompts, settings, most, timed=False) for each in both]
    found = conclude(*measured, machine=machine())
    assert found.kept is not None
    assert found.most_gain is not None
    logger.info("%s on %s: %s", config.base_draft, config.target.model, found.advice)
    if found.most_gain < config.min_gain:
        raise NotWorthItError(
            f"{config.base_draft} keeps {found.kept:.0%} of its acceptance on this target ({found.length(BASE):.2f} of "
            f"{found.base_length:.2f} tokens a round over {found.num_prompts} prompts), so adapting would gain at most "
            f"a factor of {found.most_gain:.3f}, and min_gain is {config.min_gain:g}; use the draft as it is, or lower "
            "min_gain",
            param="min_gain",
        )


def require_own_target(config: AdaptConfig, draft: DraftManifest) -> TargetSpec:
    """What a job with `min_gain` holds its target against.

    Raises:
        InputError: It is not known.
    """
    own = own_target(config.target, draft)
    if own is None:
        raise InputError(
            f"min_gain is {config.min_gain}, but neither the target nor {config.base_draft} says what the target was "
            "tuned from, so the loss cannot be measured; leave min_gain out, or name the target as base and adapter",
            param="min_gain",
        )
    return own


def own_target(tuned: TargetSpec, draft: DraftManifest) -> TargetSpec | None:
    """The target that a draft lost its acceptance on the way from: the tuned target without its adapter, else the one
    that the draft was made or imported for; None where neither is known.
    """
    base = shipped_base(tuned.model)
    if base is not None:
        return TargetSpec(model=base, dtype=tuned.dtype)
    if tuned.adapter is not None:
        return tuned.model_copy(update={"adapter": None})
    made_for = draft.config.get("target")
    if made_for is None:
        return None
    return TargetSpec.model_validate(made_for).model_copy(update={"dtype": tuned.dtype})


def _measured(
    target: Target,
    draft_dir: Path,
    pack_dir: Path | None,
    prompts: Sequence[Prompt],
    settings: EvalConfig,
    max_prompt_tokens: int,
    *,
    timed: bool,
    tell: Tell = silent,
) -> Measured:
    rendered, refused = render_all(target.tokenizer, prompts)
    for row in refused:
        logger.warning("prompt %s is left out: %s", row.sample_id, row.reason)
    drafts = {BASE: load_drafts(draft_dir, None, target=target)}
    if pack_dir is not None:
        drafts[ADAPTED] = load_drafts(draft_dir, pack_dir, target=target)
    fitting = [ids for ids in rendered.values() if len(ids) <= max_prompt_tokens]
    return measure(target, drafts, fitting[: settings.num_prompts], settings, timed=timed, tell=tell)
