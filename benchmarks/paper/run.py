"""Run cells of the grid, each once: `make bench-paper` writes `benchmarks/results/paper/<cell>.json`.

Data are generated once per domain, source and seed; each cell then runs the product's own stages select and train (Ray
Train with DeepSpeed) on them and is measured by replay (`eda_service.evaluation.replay`). A cell whose file is there is
skipped. Several processes may share the work, one per domain: `--domains math`.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.pairs import BASE_DRAFT, DOMAINS, PARTS, RESULTS, ROOT, SHARED_DATA, Domain, header, split_rows
from benchmarks.paper.cells import GROUPS, Cell, Settings
from benchmarks.paper.gate import gate_statistics
from benchmarks.paper.tasks import MAX_NEW_TOKENS, MAX_PROMPT_TOKENS, transcripts_of
from eda_service.artifacts.registry import find_draft
from eda_service.artifacts.rundir import RunDir
from eda_service.config import AdaptConfig, Method, TargetSpec, TreeConfig
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.distributed.endpoint import load_drafts
from eda_service.distributed.resources import connect
from eda_service.distributed.stage_generate import run_generate
from eda_service.distributed.stage_select import run_select
from eda_service.distributed.stage_train import run_train
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.replay import Replay, Transcript
from eda_service.model.checkpoint import LoadedDraft
from eda_service.model.head import DraftHead
from eda_service.records import DraftCheckpoint, SelectionManifest, SelfGenManifest, Stage
from eda_service.target.loader import Target, load_target
from jobs.common import config_of_paths

OUT = RESULTS / "paper"
HOME = ROOT / "out" / "paper"
TREE = TreeConfig()
CHAIN = 5
NUM_SAMPLES = {"math": 960, "medical": 960, "code": 400}
GENERATION: Settings = {
    "selfgen.temperature": 0.7,
    "selfgen.extra_temperatures": [0.0],
    "selfgen.max_new_tokens": MAX_NEW_TOKENS,
    "selfgen.batch_size": 48,
    "selfgen.shard_size": 96,
    "selfgen.threads_per_actor": 1,
    "evaluation.num_prompts": 8,
}
DATA: dict[str, Settings] = {
    "selfgen": {},
    "original": {"selfgen.answers": "dataset"},
    "curated": {"dataset.source": "reasoning-gym:gsm_symbolic"},
    "magpie": {"dataset.source": "self"},
}
# Scores of the self-generated set depend on these: cells that change them have data of their own.
SCORED_BY = ("selection.quantile", "selection.pca_dim", "selection.num_reference_prompts")


def config_of(cell: Cell, base_draft: str, prompts: Path) -> AdaptConfig:
    """The cell's whole config."""
    domain = domain_of(cell.domain)
    settings = {
        **GENERATION,
        "target.model": domain.target,
        "base_draft": base_draft,
        "dataset.source": str(prompts),
        "dataset.num_prompts": NUM_SAMPLES[cell.domain] + 8,
        "seed": cell.seed,
        **DATA.get(cell.data, {}),
        **cell.settings,
    }
    return config_of_paths(settings)


def domain_of(name: str) -> Domain:
    """By name."""
    return next(domain for domain in DOMAINS if domain.name == name)


@cache
def prompt_file(domain: Domain, data: Path) -> Path:
    """Training prompts with the answers the target was tuned on: the math target's are in note form."""
    path = PARTS / f"{domain.name}-paper.jsonl"
    split_rows(data / domain.train, domain.num_held_back, path, held_back=False)
    if domain.name == "math":
        as_notes = runpy.run_path(str(ROOT / "examples" / "tuned_targets" / "train_lora.py"))["as_notes"]
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]
        lines = [json.dumps({**row, "reference": as_notes(row["reference"])}) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@dataclass
class Bench:
    """What cells share: base draft, data directory, one loaded target at a time."""

    base_draft: str
    data: Path
    _target: tuple[str, Target] | None = None

    def target(self, domain: str) -> Target:
        """The domain's tuned target."""
        if self._target is None or self._target[0] != domain:
            self._target = domain, load_target(TargetSpec(model=domain_of(domain).target))
        return self._target[1]

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train, measure, describe."""
        started = time.monotonic()
        pack: Path | None = None
        made: dict[str, Any] = {}
        if cell.method != "training-free":
            pack, made = self._train(cell)
        trained = time.monotonic() - started
        measured, gate = self._measure(cell, pack)
        return {
            **header("make bench-paper"),
            "cell": {"domain": cell.domain, "method": cell.method, "data": cell.data, "seed": cell.seed},
            "base_draft": self.base_draft,
            "settings": cell.settings,
            **made,
            "tasks": measured,
            **headline(measured),
            "gate": gate,
            "speedup": None,
            "seconds": {"train_stages": round(trained, 1), "all": round(time.monotonic() - started, 1)},
        }

    def _train(self, cell: Cell) -> tuple[Path, dict[str, Any]]:
        connect()
        config = config_of(cell, self.base_draft, prompt_file(domain_of(cell.domain), self.data))
        scored = "".join(f"-{cell.settings[path]}" for path in SCORED_BY if path in cell.settings)
        source = RunDir.of_job(f"data-{cell.domain}-{cell.data}-s{cell.seed}{scored}", HOME)
        generated = _generated(source, config)
        run = RunDir.of_job(cell.name, HOME)
        shutil.rmtree(run.root, ignore_errors=True)
        run.create(config, origin="benchmark")
        for path in (source.root / Stage.GENERATE.value).iterdir():
            os.link(path, run.stage_dir(Stage.GENERATE) / path.name)
        selected: SelectionManifest = run_select(run, config)
        run.write_record(selected)
        trained: DraftCheckpoint = run_train(run, config)
        run.write_record(trained)
        for stage in (Stage.GENERATE, Stage.SELECT):
            shutil.rmtree(run.stage_dir(stage))
        shutil.rmtree(run.stage_dir(Stage.TRAIN) / "ray", ignore_errors=True)
        return run.stage_dir(Stage.TRAIN) / "pack", _described(generated, selected, trained)

    @torch.inference_mode()
    def _measure(self, cell: Cell, pack: Path | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Acceptance by task and temperature, and how the gate was used on the first task."""
        target = self.target(cell.domain)
        loaded = load_drafts(find_draft(self.base_draft), pack, target=target)
        transcripts = transcripts_of(target, cell.domain, self.data, HOME / "transcripts", sampled=cell.full)
        found: dict[str, Any] = {}
        for (task, temperature), texts in transcripts.items():
            row = found.setdefault(task, {}).setdefault(f"T{temperature:g}", {})
            row["tree"] = counted(replayed(target, loaded, texts, TREE, temperature), temperature, TREE.depth)
            if cell.full:
                row["chain"] = counted(_chain(target, loaded, texts, temperature), temperature, CHAIN)
        first = next(texts for (_, temperature), texts in transcripts.items() if temperature == 0)
        return found, gate_statistics(target, loaded, first, TREE)


def _generated(source: RunDir, config: AdaptConfig) -> SelfGenManifest:
    """The data job's record; generated now if it is not there."""
    found = source.read_record(SelfGenManifest, Stage.GENERATE)
    if found is None:
        if not source.read_job():
            source.create(config, origin="benchmark")
        # Scores are wanted whatever the first cell selects with: a retrained draft's stage would leave them out.
        scored = config.model_copy(update={"train": config.train.model_copy(update={"method": Method.EDA})})
        found = run_generate(source, scored)
        source.write_record(found)
    return found


def _described(generated: SelfGenManifest, selected: SelectionManifest, trained: DraftCheckpoint) -> dict[str, Any]:
    return {
        "generated": {
            "num_samples": generated.num_samples,
            "num_answer_tokens": generated.num_answer_tokens,
            "seconds": round(generated.generation_seconds, 1),
        },
        "selected": {"num_samples": selected.num_selected, "num_answer_tokens": selected.num_answer_tokens},
        "trained": {
            "seconds": round(trained.seconds, 1),
            "num_steps": trained.num_steps,
            "best_step": trained.best_step,
            "num_trainable": trained.num_trainable,
            "trainable_fraction": round(trained.trainable_fraction, 4),
            "initial_simulated_acceptance_length": trained.initial_simulated_acceptance_length,
            "best_simulated_acceptance_length": trained.best_simulated_acceptance_length,
        },
    }


def replayed(
    target: Target, loaded: LoadedDraft, texts: list[Transcript], tree: TreeConfig | None, temperature: float
) -> list[RequestStats]:
    """Counts of a draft over transcripts."""
    head = DraftHead(target.head_weight, loaded.vocab_W)
    replay = Replay(loaded.draft, target.embed, head, num_draft_tokens=CHAIN, tree=tree, batch_size=16)
    return replay.run(texts, temperature)


def _chain(target: Target, loaded: LoadedDraft, texts: list[Transcript], temperature: float) -> list[RequestStats]:
    """Chains: replayed at T=0, decoded at T>0."""
    if temperature == 0:
        return replayed(target, loaded, texts, None, 0.0)
    head = DraftHead(target.head_weight, loaded.vocab_W)
    most = MAX_PROMPT_TOKENS + MAX_NEW_TOKENS
    engine = Engine(target, loaded.draft, head, num_draft_tokens=CHAIN, max_batch=16, max_tokens=most)
    params = SamplingParams(temperature=temperature, max_new_tokens=MAX_NEW_TOKENS)
    return decode_all(engine, [each.token_ids[: each.num_prompt_tokens] for each in texts], params).stats


def counted(stats: list[RequestStats], temperature: float, depth: int) -> dict[str, Any]:
    """A task's numbers."""
    row = summarise("", temperature, stats, num_draft_tokens=depth)
    return {
        "acceptance_length": round(row.acceptance_length, 4),
        "mean_accepted": round(row.mean_accepted, 4),
        "acceptance_by_position": [round(rate, 4) for rate in row.acceptance_by_position],
        "num_rounds": row.num_rounds,
        "num_new_tokens": row.num_new_tokens,
    }


def headline(measured: dict[str, Any]) -> dict[str, float]:
    """Means over tasks, trees at T=0."""
    lengths = [task["T0"]["tree"]["acceptance_length"] for task in measured.values()]
    mean = sum(lengths) / len(lengths)
    return {"acceptance_length": round(mean, 4), "mean_accepted": round(mean - 1.0, 4)}


def cells(domains: list[str], groups: list[str]) -> Iterator[Cell]:
    """Group by group, so that the grid comes first. Ablations are of math alone."""
    for group in groups:
        for domain in domains if group in ("grid", "seeds") else [name for name in domains if name == "math"]:
            yield from GROUPS[group](domain)


def main() -> None:
    """Every cell that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with train/ and eval/")
    parser.add_argument("--base-draft", default=BASE_DRAFT)
    parser.add_argument("--domains", default=",".join(domain.name for domain in DOMAINS))
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--only", help="run cells whose name contains this")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    OUT.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.base_draft, arguments.data)
    for cell in cells(arguments.domains.split(","), arguments.groups.split(",")):
        path = OUT / f"{cell.name}.json"
        if path.exists() or (arguments.only and arguments.only not in cell.name):
            continue
        result = bench.run(cell)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        partial.rename(path)
        sys.stderr.write(f"{cell.name}: {result['acceptance_length']} in {result['seconds']['all']:.0f} s\n")


if __name__ == "__main__":
    main()
