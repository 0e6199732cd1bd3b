"""Checks and measurements of drafts on targets, both given by their files; and the check of `min_gain`."""

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
"""Largest sum of prompt and answer tokens in the check, whose prompts ship with the package."""


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
    """Measure the check of a draft, over the general prompts that ship with the package.

    Args:
        draft_dir: Directory of its `config.json` and `draft.safetensors`.
        spec: Base target, whose files are on this machine.
        device: Device to compute on.
        threads: Number of CPU threads of a vLLM.
        num_prompts: Number of general prompts, from the first on.
        thorough: Whether to try other readings also if the declared one is not poor.
        on_progress: Function that receives the progress of answers and readings.

    Returns:
        The measured check; if the target does not fit into this machine's memory, a check that was skipped, with the
        reason.
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
    """Measure a draft, or a draft with a pack, on a target, and the draft on its own target; one target in memory at a
    time.

    Args:
        spec: Target to measure on.
        draft_dir: Directory of the base draft.
        pack_dir: Directory of a pack over it; None: the draft alone.
        prompts: Prompts; those longer than the cap, and those that a target's template refuses, are left out.
        settings: Settings of the measurement.
        max_prompt_tokens: Largest number of tokens of a prompt.
        base: Own target of the draft; None: it is not measured.
        device: Device to compute on.
        on_progress: Function that receives the progress of the decodings.

    Raises:
        DatasetInvalidError: All prompts were left out.
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
        config: Config of the job.
        engine: Engine with the tuned target; the draft's own target is loaded beside it, or the same vLLM answers
            without the adapter.
        prompts: Held-out prompts.

    Raises:
        NotWorthItError: The whole loss is less than `min_gain`.
        InputError: The draft's own target is unknown.
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
    """Return the target that a job with `min_gain` compares its target with.

    Raises:
        InputError: The target is unknown; or vLLM, which holds one model, runs the tuned target and the other is
            another model.
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
    """Return the draft's own target, compared with which it lost acceptance: the tuned target without its adapter, else
    the one that the draft was made or imported for; None if neither is known.
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
    """Measure a draft, or a draft with a pack, on one target, with any engine."""
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
