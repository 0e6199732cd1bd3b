"""The grid's training data: one generate stage per domain, source and seed, shared by all cells that learn from it.

Selection scores depend on rho, PCA dimension and reference set, or on the base draft where the selector looks at that.
A cell that changes them shares the samples and has them scored again, instead of having them generated once more.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.cells import Cell, Settings
from benchmarks.paper.domains import NUM_HELD_OUT, PaperDomain
from benchmarks.paper.tasks import MAX_NEW_TOKENS
from eda_service.config.job import AdaptConfig, Method, SelectionConfig
from eda_service.engines.own import OwnEngine
from eda_service.pipeline.generate import GENERATE
from eda_service.pipeline.generation_actor import score_samples, scorer_of
from eda_service.pipeline.prepare import fit_on_general
from eda_service.pipeline.stage import run_stage
from eda_service.planning.base_draft import draft_config
from eda_service.records import SelfGenManifest, Stage
from eda_service.selection.kinds import make_selector
from eda_service.selection.selector import DraftSelector
from eda_service.storage.files import file_entry, sha256_file, sha256_text
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Prepared
from eda_service.storage.samples.shards import read_shard
from eda_service.targets.loader import Target
from jobs.common import config_of_paths

GENERATION: Settings = {
    "selfgen.temperature": 0.7,
    "selfgen.extra_temperatures": [0.0],
    "selfgen.max_new_tokens": MAX_NEW_TOKENS,
    "selfgen.batch_size": 48,
    "selfgen.shard_size": 96,
    "selfgen.threads_per_actor": 1,
    "evaluation.num_prompts": NUM_HELD_OUT,
}
DATA: dict[str, Settings] = {
    "selfgen": {},
    "original": {"selfgen.answers": "dataset"},
    "curated": {"dataset.source": "reasoning-gym:gsm_symbolic"},
    "magpie": {"dataset.source": "self"},
}
SCORED_BY = ("quantile", "pca_dim", "num_reference_prompts", "reference_max_new_tokens", "covariance_ridge")


def config_of(cell: Cell, domain: PaperDomain, base_draft: str, prompts: Path) -> AdaptConfig:
    """Make the cell's whole config."""
    target = {f"target.{name}": value for name, value in domain.target.model_dump(exclude_defaults=True).items()}
    settings = {
        **GENERATION,
        **target,
        "base_draft": base_draft,
        "dataset.source": str(prompts),
        "dataset.num_prompts": domain.num_samples + NUM_HELD_OUT,
        "train.epochs": domain.original_epochs if cell.data == "original" else domain.epochs,
        "selfgen.answers_per_prompt": 1 if cell.data == "original" else domain.answers_per_prompt,
        "seed": cell.seed,
        **DATA.get(cell.data, {}),
        **cell.settings,
    }
    return config_of_paths(settings)


def generated_set(cell: Cell, config: AdaptConfig, home: Path, target: Target) -> RunDir:
    """Return the run whose generate stage a cell learns from; it is made if missing."""
    plain = config.model_copy(
        update={
            # Scores are needed whatever the first cell selects with: a retrained draft's stage would leave them out.
            # The layers that the draft reads are kept, not its start states, because other cells train fc.
            "train": config.train.model_copy(update={"method": Method.EDA, "train_fc": True}),
            "selection": SelectionConfig(),
        }
    )
    source = RunDir.of_job(f"data-{cell.domain}-{cell.data}-s{cell.seed}-{_digest(plain, target)}", home)
    if source.read_record(SelfGenManifest, Stage.GENERATE) is None:
        if not source.is_job:
            source.create(plain, origin="benchmark")
        run_stage(source, plain, GENERATE)
    if isinstance(make_selector(config.selection), DraftSelector):
        changed: dict[str, Any] = {"method": config.selection.method.value}
    else:
        changed = {name: getattr(config.selection, name) for name in SCORED_BY}
        changed = {name: value for name, value in changed.items() if value != getattr(plain.selection, name)}
    if not changed:
        return source
    again = RunDir.of_job(source.job_id + "".join(f"-{name}-{value}" for name, value in changed.items()), home)
    if again.read_record(SelfGenManifest, Stage.GENERATE) is None:
        _score_again(source, again, config, target)
    return again


def _digest(config: AdaptConfig, target: Target) -> str:
    """Hash everything that the samples depend on."""
    path = Path(config.dataset.source)
    prompts = sha256_file(path) if path.is_file() else config.dataset.source
    parts: list[Any] = [
        prompts,
        config.dataset.num_prompts,
        config.selfgen.model_dump_json(exclude_defaults=True),
        config.seed,
    ]
    captures = draft_config(config.base_draft).captures
    if captures:
        parts.append(captures)
    return sha256_text(target.fingerprint.model_dump_json() + repr(parts))[:8]


@torch.inference_mode()
def _score_again(source: RunDir, run: RunDir, config: AdaptConfig, target: Target) -> None:
    """Link the samples and write a record with other scores: of other statistics, or of the base draft."""
    record = source.read_record(SelfGenManifest, Stage.GENERATE)
    assert record is not None
    run.create(config, origin="benchmark")
    directory = run.stage_dir(Stage.GENERATE)
    link(source.root / Stage.GENERATE.value, directory, leave_out=("record.json", "reference.safetensors"))
    path, selector = directory / "reference.safetensors", make_selector(config.selection)
    files = [entry for entry in record.files if entry.path != path.name]
    if isinstance(selector, DraftSelector):
        base_dir, timed = find_draft(config.base_draft), Prepared()
        scorer = scorer_of(config, target, reference=None, base_dir=base_dir)
    else:
        timed = fit_on_general(config, OwnEngine(target), path)
        scorer = scorer_of(config, target, reference=path, base_dir=None)
        files.append(file_entry(directory, path))
    shards, started = sorted({score.shard for score in record.scores}), time.monotonic()
    scores = [s for name in shards for s in score_samples(name, list(read_shard(directory, name)), scorer)]
    timings = timed.model_dump(include={"reference_seconds", "reference_fit_seconds", "num_reference_tokens"})
    timings["scoring_seconds"] = time.monotonic() - started
    update = {"scores": tuple(scores), "files": tuple(files), "value_name": selector.value_name, **timings}
    run.write_record(record.model_copy(update=update))


def link(source: Path, destination: Path, *, leave_out: tuple[str, ...] = ()) -> None:
    """Make hard links of a directory's files, unless they exist."""
    for path in source.iterdir():
        if path.name not in leave_out and not (destination / path.name).exists():
            os.link(path, destination / path.name)
