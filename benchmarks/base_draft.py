"""The gain of more data and more passes for a base draft: `make bench NAME=base` writes `results/base-draft.json`.

One self-generated set (prompts and answers by the base target) is used; growing parts of it train a fresh draft each,
measured with trees of 60 nodes at T=0 on general prompts that no draft has seen. Existing points are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.domains import GENERAL
from benchmarks.paper.run import TREE, counted, replayed
from benchmarks.paper.tasks import transcripts_of
from benchmarks.workloads import RESULTS, ROOT, SHARED_DATA, header, write_result
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.drafts.checkpoint import load_base_draft
from eda_service.pipeline.pretrain import pretrain
from eda_service.pipeline.select import shard_files
from eda_service.raycluster.resources import connect
from eda_service.records import SelectionManifest, SelfGenManifest, Stage
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import load_target
from jobs.common import config_of_paths

HOME = ROOT / "out" / "base-draft"
RESULT = "base-draft.json"
SETTINGS: dict[str, Any] = {
    "target.model": "smollm2-135m-instruct",
    "dataset.source": "self",
    "dataset.num_prompts": 6400,
    "seed": 11,
    "evaluation.num_prompts": 40,
    "selfgen.temperature": 0.7,
    "selfgen.extra_temperatures": [0.3, 1.0],
    "selfgen.max_new_tokens": 128,
    "selfgen.batch_size": 48,
    "selfgen.shard_size": 96,
    "selfgen.threads_per_actor": 1,
    "selection.method": "all",
    "train.method": "retrain",
    "train.draft_vocab_size": 8192,
    "train.batch_size": 16,
    "train.learning_rate": 1.5e-3,
    "train.loss.unroll_steps": 3,
    "train.loss.regression_weight": 0.2,
    "train.loss.cross_entropy_weight": 1.0,
    "train.heldout_fraction": 0.02,
    "train.checkpoint_every_steps": 200,
    "train.num_workers": 1,
}
POINTS = ((0.125, 6), (0.25, 6), (0.5, 6), (1.0, 6), (1.0, 12))


def config_of(epochs: int) -> AdaptConfig:
    """Make the pretraining job's config."""
    return config_of_paths({**SETTINGS, "train.epochs": epochs})


def part_of(source: RunDir, share: float, epochs: int) -> RunDir:
    """Make a job whose generated and selected sets are the first shards of another's, by hard links."""
    run = RunDir.of_job(f"part-{share:g}-{epochs}", HOME)
    if not run.is_job:
        run.create(config_of(epochs), origin="benchmark")
    generated = source.read_record(SelfGenManifest, Stage.GENERATE)
    selected = source.read_record(SelectionManifest, Stage.SELECT)
    assert generated is not None
    assert selected is not None
    names = sorted({entry.path.split(".")[0] for entry in shard_files(selected.files)})
    kept = set(names[: max(1, round(share * len(names)))])
    for stage in (Stage.GENERATE, Stage.SELECT):
        shutil.rmtree(run.stage_dir(stage))
        for path in (source.root / stage.value).iterdir():
            if path.name != "record.json" and (not path.name.startswith("shard-") or path.name.split(".")[0] in kept):
                os.link(path, run.stage_dir(stage) / path.name)
    scores = tuple(score for score in generated.scores if score.shard in kept)
    files = [entry for entry in generated.files if not entry.path.startswith("shard-") or entry.path[:11] in kept]
    answer_tokens = sum(score.num_answer_tokens for score in scores)
    run.write_record(
        generated.model_copy(
            update={
                "scores": scores,
                "files": tuple(files),
                "num_samples": len(scores),
                "num_answer_tokens": answer_tokens,
                "num_tokens": round(generated.num_tokens * answer_tokens / generated.num_answer_tokens),
            }
        )
    )
    chosen = [entry for entry in shard_files(selected.files) if entry.path.split(".")[0] in kept]
    run.write_record(
        selected.model_copy(
            update={
                "files": tuple(chosen),
                "num_candidates": len(scores),
                "num_selected": len(scores),
                "num_answer_tokens": answer_tokens,
            }
        )
    )
    return run


@torch.inference_mode()
def measure(directory: Path, data: Path) -> dict[str, Any]:
    """Measure trees on the general tasks."""
    target = load_target(TargetSpec(model=SETTINGS["target.model"]))
    loaded = load_base_draft(directory, dtype=target.dtype)
    loaded.draft.requires_grad_(False)
    found = transcripts_of(target, "general", GENERAL, data, HOME / "transcripts", sampled=False)
    return {
        task: counted(replayed(target, loaded, texts, TREE, 0.0), 0.0, TREE.depth) for (task, _), texts in found.items()
    }


def point(source: RunDir, share: float, epochs: int, data: Path) -> dict[str, Any]:
    """Train one draft and measure it."""
    run = part_of(source, share, epochs)
    directory = HOME / "drafts" / f"part-{round(1000 * share)}" / str(epochs)
    if not directory.exists():
        os.environ["EDA_HOME"] = str(HOME)
        pretrain(run, config_of(epochs), f"{directory.parent.name}@{epochs}")
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    tasks = measure(directory, data)
    lengths = [task["acceptance_length"] for task in tasks.values()]
    return {
        "share": share,
        "epochs": epochs,
        "num_train_tokens": manifest["num_train_tokens"],
        "num_answer_tokens": round(manifest["metrics"]["num_answer_tokens"]),
        "simulated_acceptance_length": round(manifest["metrics"]["simulated_acceptance_length"], 4),
        "acceptance_length": round(sum(lengths) / len(lengths), 4),
        "tasks": tasks,
    }


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """Plot acceptance over training tokens."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for epochs in sorted({each["epochs"] for each in points}):
        rows = [each for each in points if each["epochs"] == epochs]
        counts, lengths = [each["num_train_tokens"] for each in rows], [each["acceptance_length"] for each in rows]
        axes.plot(counts, lengths, marker="o", label=f"{epochs} passes")
    axes.set(xlabel="self-generated tokens", ylabel="acceptance_length (tree 60/5/10, T=0)", xscale="log")
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Make every missing point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with eval/general/*.jsonl")
    parser.add_argument("--source", type=Path, default=HOME / "runs" / "data", help="run directory of the whole set")
    parser.add_argument("--points", default=",".join(f"{share:g}x{epochs}" for share, epochs in POINTS))
    arguments = parser.parse_args()
    connect()
    source = RunDir(arguments.source)
    if not source.is_job:
        os.environ["EDA_HOME"] = str(HOME)
        source.create(config_of(6), origin="benchmark")
        pretrain(source, config_of(6), "whole@6")
    for wanted in arguments.points.split(","):
        share, epochs = (float(part) for part in wanted.split("x"))
        if any((each["share"], each["epochs"]) == (share, epochs) for each in points()):
            continue
        new = point(source, share, int(epochs), arguments.data)
        made = sorted([*points(), new], key=lambda each: (each["epochs"], each["share"]))
        write_result(RESULT, {**header("make bench NAME=base"), "points": made})
        plot(made, RESULTS / "base-draft.png")
        sys.stderr.write(f"{wanted}: {new}\n")


def points() -> list[dict[str, Any]]:
    """Read the existing points; read again each time, since several processes may add to them."""
    path = RESULTS / RESULT
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["points"] if path.exists() else []
    return found


if __name__ == "__main__":
    main()
