"""Adaptations with and without early training, on two cores: `make bench NAME=early` writes `results/early.json`.

Generation computes on one thread and training on one, so that the machine has room for both, as a cluster with a node
for each has. The same prompts, recipe and number of samples seen; `jobs.adapt` in a process of its own, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.pairs import BASE_DRAFT, GENERATED_MATH, ROOT, header, write_result
from benchmarks.paper.cells import METHODS, PAPER, SELECTED
from eda_service.records import DraftCheckpoint, EvalReport, Stage
from eda_service.storage.run import RunDir
from jobs.common import config_of_paths

HOME = ROOT / "out" / "early"
STAGES = (Stage.GENERATE, Stage.SELECT, Stage.TRAIN)
SETTINGS: dict[str, Any] = {
    **PAPER,
    **METHODS["eda"],
    **SELECTED,
    "base_draft": BASE_DRAFT,
    "target.model": "smollm2-135m-math",
    "dataset.source": GENERATED_MATH.replace("80-99", "0-79"),
    "dataset.num_prompts": 496,
    "selfgen.max_new_tokens": 96,
    "selfgen.temperature": 0.7,
    "selfgen.batch_size": 48,
    "selfgen.shard_size": 48,
    "selfgen.threads_per_actor": 1,
    "evaluation.num_prompts": 16,
    "evaluation.num_timed_prompts": 0,
    "train.epochs": 8,
}
MODES: dict[str, dict[str, Any]] = {
    "after selection": {},
    "early": {"train.early_epochs": 8, "train.early_fraction": 0.3},
}


def adapt(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Run a job; seconds from the start of generation to the trained draft, and what it accepts."""
    home = HOME / name.replace(" ", "-")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    config = home / "config.json"
    config.write_text(config_of_paths({**SETTINGS, **settings}).model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "jobs.adapt", "--job-id", "job", "--config", str(config)]
    env = {**os.environ, "EDA_HOME": str(home), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=ROOT, env=env, stdout=subprocess.DEVNULL)
    run = RunDir.of_job("job", home)
    took = {event["stage"]: event["took_s"] for event in run.read_events() if event["type"] == "stage_finished"}
    trained = run.read_record(DraftCheckpoint, Stage.TRAIN)
    report = run.read_record(EvalReport, Stage.EVALUATE)
    assert trained is not None
    assert report is not None
    return {
        "mode": name,
        "seconds": round(sum(took[stage.value] for stage in STAGES), 1),
        "stage_seconds": {stage.value: round(took[stage.value], 1) for stage in STAGES},
        "num_steps": trained.num_steps,
        "simulated_acceptance_length": round(trained.best_simulated_acceptance_length, 3),
        "acceptance_length": {
            f"{row.draft} T={row.temperature:g}": round(row.acceptance_length, 3) for row in report.acceptance
        },
    }


def main() -> None:
    """Both modes, turn by turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    repeats = parser.parse_args().repeats
    rows = []
    for _ in range(repeats):
        for name, settings in MODES.items():
            rows.append(adapt(name, settings))
            sys.stderr.write(json.dumps(rows[-1]) + "\n")
    plain, early = ([row["seconds"] for row in rows if row["mode"] == name] for name in MODES)
    ratios = [one / other for one, other in zip(plain, early, strict=True)]
    result = {"settings": SETTINGS, "modes": MODES, "rows": rows, "times_as_fast": round(statistics.median(ratios), 3)}
    write_result("early.json", {**header("make bench NAME=early"), **result})


if __name__ == "__main__":
    main()
