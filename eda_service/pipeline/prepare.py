"""Preparation before shards are generated: prompts (written by the target if none are given), reference statistics on
general prompts (Eqs. 11-12), and the target's embedding and head for training. It runs as one Ray task with one copy of
the target.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from eda_service.config.job import AdaptConfig, Answers, DatasetSpec, EngineKind
from eda_service.engines.engine import TargetEngine
from eda_service.errors import DatasetInvalidError
from eda_service.pipeline.measuring import require_gain
from eda_service.pipeline.target_engine import open_engine
from eda_service.selection.kinds import make_selector
from eda_service.selection.selector import ReferenceSelector
from eda_service.selfgen.generate import generate
from eda_service.selfgen.magpie import write_prompts
from eda_service.selfgen.prompts import Prompt, general_prompts, load_prompts
from eda_service.selfgen.refused import render_all
from eda_service.selfgen.skipped_rows import SkippedRows
from eda_service.storage.files import write_bytes
from eda_service.storage.runs.state import Prepared
from eda_service.targets.ends import TargetEnds
from eda_service.targets.ends_file import export_io

PROMPTS_FILE, HELDOUT_FILE = "prompts.jsonl", "heldout.jsonl"
IO_FILE, REFERENCE_FILE = "target_io.safetensors", "reference.safetensors"


def write_prompt_file(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write prompts as JSON lines, atomically."""
    lines = "".join(json.dumps(prompt.as_dict(), ensure_ascii=False) + "\n" for prompt in prompts)
    write_bytes(path, lines.encode("utf-8"))


def read_prompt_file(path: Path) -> list[Prompt]:
    """Read the prompts that `write_prompt_file` wrote."""
    return [Prompt(**json.loads(line)) for line in path.read_text(encoding="utf-8").split("\n") if line]


def prepare_generation(
    config: AdaptConfig,
    directory: Path,
    *,
    kind: EngineKind = EngineKind.EDA,
    captures: Sequence[int] = (),
    with_reference: bool,
) -> Prepared:
    """Write prompts.jsonl, heldout.jsonl, target_io.safetensors and reference.safetensors into `directory`.

    Args:
        config: Config of the job.
        directory: Directory of the stage.
        kind: Engine that runs the target.
        captures: Layers that the draft reads.
        with_reference: Whether to fit the selector on general prompts.

    Returns:
        Timings and counts, for prepare.json, which comes last.
    """
    engine = open_engine(config, kind, captures=captures)
    target = engine.ends
    training, heldout = split_prompts(config, engine)
    check_rendered(config, target, training, heldout)
    started = time.monotonic()
    require_gain(config, engine, heldout)
    gate_seconds = 0.0 if config.min_gain is None else time.monotonic() - started
    write_prompt_file(directory / PROMPTS_FILE, training)
    write_prompt_file(directory / HELDOUT_FILE, heldout)
    export_io(target, directory / IO_FILE)
    fitted = fit_on_general(config, engine, directory / REFERENCE_FILE, captures) if with_reference else Prepared()
    return fitted.model_copy(
        update={
            "num_prompts": len(training),
            "num_heldout": len(heldout),
            "gate_seconds": gate_seconds,
            "generation_defaults": target.defaults.said,
        }
    )


def split_prompts(config: AdaptConfig, engine: TargetEngine) -> tuple[list[Prompt], list[Prompt]]:
    """Return (prompts to generate from, held-out prompts): from two sources, or the last prompts of one
    are held out.
    """
    prompts = _load(config.dataset, config, engine, seed=config.seed)
    if config.eval_dataset is not None:
        heldout = _load(config.eval_dataset, config, engine, seed=config.seed + 1)
        seen = {prompt.content for prompt in heldout}
        return [prompt for prompt in prompts if prompt.content not in seen], heldout
    cut = len(prompts) - config.evaluation.num_prompts
    return prompts[:cut], prompts[cut:]


def check_rendered(
    config: AdaptConfig, target: TargetEnds, training: Sequence[Prompt], heldout: Sequence[Prompt]
) -> None:
    """Check, before anything is generated, that the target's chat template accepts enough of the prompts.

    Raises:
        DatasetInvalidError: The template refuses a larger fraction than `selfgen.max_error_fraction` of the prompts to
            generate from, or all held-out prompts.
    """
    most = config.selfgen.max_error_fraction
    _, refused = render_all(target.tokenizer, training)
    if len(refused) > most * len(training):
        raise DatasetInvalidError(
            f"{len(refused)} of {len(training)} prompts do not go through the target's chat template, {most:.0%} may "
            f"be skipped (selfgen.max_error_fraction); the first: {refused[0].sample_id}: {refused[0].reason}",
            param="dataset",
        )
    rendered, refused = render_all(target.tokenizer, heldout)
    if refused and not rendered:
        raise DatasetInvalidError(
            f"{len(refused)} of {len(heldout)} held-out prompts do not go through the target's chat template, so "
            f"nothing could be measured; the first: {refused[0].sample_id}: {refused[0].reason}",
            param="eval_dataset",
        )


def _load(dataset: DatasetSpec, config: AdaptConfig, engine: TargetEngine, *, seed: int) -> list[Prompt]:
    if dataset.source == "self":
        return write_prompts(engine, dataset.num_prompts, seed=seed, batch_size=config.selfgen.batch_size)
    return load_prompts(dataset, seed=seed, skipped=SkippedRows(config.selfgen.max_error_fraction))


def fit_on_general(config: AdaptConfig, engine: TargetEngine, path: Path, captures: Sequence[int] = ()) -> Prepared:
    """Generate on general prompts with the tuned target, fit the selector (Eqs. 11-12) and save it at `path`.

    Args:
        config: Config of the job.
        engine: Engine that runs the tuned target.
        path: File for the fitted selector.
        captures: Layers that the engine returns; the selector uses the inputs of the target's head.
    """
    selection = config.selection
    selector, started = make_selector(selection), time.monotonic()
    assert isinstance(selector, ReferenceSelector)
    settings = config.selfgen.model_copy(
        update={"max_new_tokens": selection.reference_max_new_tokens, "answers": Answers.TARGET}
    )
    prompts = general_prompts(selection.num_reference_prompts)
    generated = generate(engine, prompts, settings, seed=config.seed, captures=captures)
    if not generated.samples:
        raise DatasetInvalidError(
            "the target answered no general prompt; check its chat template", param="target.model"
        )
    features_ND = torch.cat([sample.answer_states() for sample in generated.samples]).to(torch.float64)
    fit_started = time.monotonic()
    selector.fit(np.asarray(features_ND.cpu().numpy())).save(path)
    return Prepared(
        reference_seconds=time.monotonic() - started,
        reference_fit_seconds=time.monotonic() - fit_started,
        num_reference_tokens=len(features_ND),
    )
