"""Drafts and targets by their files, brought together to be checked, measured, or found not worth an adaptation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from eda_service.config.job import AdaptConfig, EngineKind, EvalConfig, TargetSpec
from eda_service.decoding.build import load_drafts
from eda_service.draft_check import DraftCheck
from eda_service.drafts.checkpoint import read_draft_config
from eda_service.engines.engine import TargetEngine
from eda_service.engines.own import OwnEngine
from eda_service.engines.vllm import VllmEngine
from eda_service.errors import InputError, NotWorthItError
from eda_service.evaluation.draft_check import NUM_PROMPTS, check_draft, layers_of_readings
from eda_service.evaluation.measure import Measured, conclude, measure, measure_replayed
from eda_service.measurement import Measurement
from eda_service.progress import ProgressCallback, no_progress
from eda_service.records import ADAPTED, BASE, DraftManifest
from eda_service.selfgen.prompts import Prompt, general_prompts
from eda_service.selfgen.refused import render_all
from eda_service.storage.published.registry import find_draft, find_draft_manifest
from eda_service.storage.runs.provenance import machine
from eda_service.targets.ends import choose_dtype
from eda_service.targets.files.resolve import resolve_target, shipped_base
from eda_service.targets.load_ends import load_ends
from eda_service.targets.loader import load_target
from eda_service.targets.room import lacking_room

logger = logging.getLogger(__name__)

_MAX_CHECK_TOKENS = 2048
"""Prompt and answer of the check, whose prompts come with the package."""


def check_staged(
    draft_dir: Path,
    spec: TargetSpec,
    *,
    device: torch.device,
    threads: int = 2,
    num_prompts: int = NUM_PROMPTS,
    thorough: bool = False,
    on_progress: ProgressCallback = no_progress,
) -> DraftCheck:
    """The measured check of a draft, over the general prompts that come with the package.

    Args:
        draft_dir: Its `config.json` and `draft.safetensors`.
        spec: Its base target, whose files are on this machine.
        device: Where to compute.
        threads: CPU threads of a vLLM.
        num_prompts: The first of them.
        thorough: Look at other readings also where the declared one is not poor.
        on_progress: Told of answers and readings.

    Returns:
        What was measured; that it was skipped, and why, where the target finds no room here.
    """
    if spec.engine is EngineKind.VLLM:
        ends = load_ends(spec)
        engine: TargetEngine = VllmEngine(
            ends,
            spec.vllm,
            max_tokens=_MAX_CHECK_TOKENS,
            batch_size=num_prompts,
            captures=layers_of_readings(read_draft_config(draft_dir), ends),
            threads=threads,
            seed=0,
        )
    else:
        lacking = lacking_room(resolve_target(spec).model_dir, dtype=choose_dtype(spec, device), device=device)
        if lacking is not None:
            return DraftCheck(
                skipped=f"{spec.model} cannot answer here: {lacking}; check it on a larger machine, or through vLLM "
                "(eda measure --engine vllm)"
            )
        engine = OwnEngine(load_target(spec, device=device))
    prompts, _ = render_all(engine.ends.tokenizer, general_prompts(num_prompts, param="num_check_prompts"))
    loaded = load_drafts(draft_dir, None, target=engine.ends)
    return check_draft(engine, loaded, list(prompts.values()), thorough=thorough, on_progress=on_progress)


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
    on_progress: ProgressCallback = no_progress,
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
        on_progress: Told of each decoding.

    Raises:
        DatasetInvalidError: No prompt is left.
    """

    def on(each: TargetSpec, pack: Path | None, *, timed: bool) -> Measured:
        engine = OwnEngine(load_target(each, device=device))
        return measured_on(
            engine, draft_dir, pack, prompts, settings, max_prompt_tokens, timed=timed, on_progress=on_progress
        )

    on_target = on(spec, pack_dir, timed=True)
    return conclude(on_target, None if base is None else on(base, None, timed=False), machine=machine())


def require_gain(config: AdaptConfig, engine: TargetEngine, prompts: Sequence[Prompt]) -> None:
    """End a job whose draft loses too little on the tuned target for an adaptation to gain `min_gain`.

    Args:
        config: Of the job.
        engine: Who runs the tuned target; the draft's own is loaded beside it, or answered by the same vLLM without
            the adapter.
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
    if isinstance(engine, VllmEngine):
        other: TargetEngine = engine.without_adapter(load_ends(own))
    else:
        other = OwnEngine(load_target(own, device=engine.ends.device))
    measured = [measured_on(each, draft_dir, None, prompts, settings, most, timed=False) for each in (engine, other)]
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


def require_own_target(config: AdaptConfig, draft: DraftManifest, engine: EngineKind = EngineKind.EDA) -> TargetSpec:
    """What a job with `min_gain` holds its target against.

    Raises:
        InputError: It is not known; or vLLM runs the target, which holds one model, and the base is another one.
    """
    own = own_target(config.target, draft)
    if engine is EngineKind.VLLM and resolve_target(config.target).adapter_dir is None:
        raise InputError(
            "min_gain holds the target against the one that the draft was made for, and vLLM holds one model: with "
            "target.engine vllm it needs a target with a LoRA adapter; measure the draft first (eda measure), and "
            "leave min_gain out",
            param="min_gain",
        )
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
        return tuned.model_copy(update={"model": base, "revision": None, "adapter": None})
    if tuned.adapter is not None:
        return tuned.model_copy(update={"adapter": None})
    made_for = draft.config.get("target")
    if made_for is None:
        return None
    return TargetSpec.model_validate(made_for).model_copy(
        update={"dtype": tuned.dtype, "engine": tuned.engine, "vllm": tuned.vllm}
    )


def measured_on(
    engine: TargetEngine,
    draft_dir: Path,
    pack_dir: Path | None,
    prompts: Sequence[Prompt],
    settings: EvalConfig,
    max_prompt_tokens: int,
    *,
    timed: bool,
    on_progress: ProgressCallback = no_progress,
) -> Measured:
    """A draft, or a draft and a pack, on one target, by whoever runs it."""
    target = engine.ends
    rendered, refused = render_all(target.tokenizer, prompts)
    for row in refused:
        logger.warning("prompt %s is left out: %s", row.sample_id, row.reason)
    drafts = {BASE: load_drafts(draft_dir, None, target=target)}
    if pack_dir is not None:
        drafts[ADAPTED] = load_drafts(draft_dir, pack_dir, target=target)
    fitting = [ids for ids in rendered.values() if len(ids) <= max_prompt_tokens][: settings.num_prompts]
    if isinstance(engine, OwnEngine):
        return measure(engine.target, drafts, fitting, settings, timed=timed, on_progress=on_progress)
    return measure_replayed(engine, drafts, fitting, settings, on_progress=on_progress)
