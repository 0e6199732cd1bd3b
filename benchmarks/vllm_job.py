"""A whole adaptation with the own engine and inside vLLM: `make bench NAME=vllm-job` writes `results/vllm-job.json`.

The same job on SmolLM2's math target runs three times: with the project's own engine; with `target.engine=vllm`, where
vLLM adds the target's LoRA adapter; and with `tensor_parallel_size` 3 on three CPU ranks, the smallest number that
divides the nine heads of target and draft.

While a job runs, its processes are observed through /proc: which of them map a file of the target's weights, and the
peak memory of each kind of process.

Runs in the environment that has vLLM (`.venv-vllm`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.workloads import header, write_result
from eda_service.config.job import AdaptConfig
from eda_service.config.overrides import merge
from eda_service.config.presets import preset
from eda_service.targets.files.resolve import resolve_target

RESULT = "vllm-job.json"
TARGET = "smollm2-135m-math"
SETTINGS: dict[str, Any] = {
    "base_draft": "smollm2-135m@3",
    "dataset": {"num_prompts": 192},
    "selfgen": {"temperature": 0.0, "max_new_tokens": 96, "batch_size": 32, "shard_size": 64, "num_actors": 1},
    "train": {"num_workers": 1, "epochs": 8},
    "evaluation": {"temperatures": [0.0], "num_timed_prompts": 3, "num_timed_repeats": 2, "threads": 1},
    "deploy": {"min_gain": 0, "min_speed_gain": 0},
}
VLLM = ("ray::_prepare", "ray::MapWorker", "ray::_drafted", "ray::_plain", "VLLM::")
"""Titles of processes that vLLM runs in."""
ROLES = {
    "ray::_prepare": "prepare",
    "ray::MapWorker": "generation actor",
    "ray::_drafted": "evaluation with a draft",
    "ray::_plain": "evaluation without a draft",
    "ray::_evaluate": "evaluation",
    "VLLM::": "rank of vLLM",
    "ray::RayTrainWorker": "train worker",
    "ray::_RayTrainWorker": "train worker",
    "benchmarks.vllm_job": "driver",
}


class Watch:
    """Observes the child processes of a process until the block ends.

    Attributes:
        peaks: Largest number of resident bytes of a process of each role.
        mapped: Roles whose processes mapped a file of the weights.
    """

    def __init__(self, pid: int, weights: list[Path]) -> None:
        self.peaks: dict[str, int] = {}
        self.mapped: set[str] = set()
        self._root, self._weights = psutil.Process(pid), [str(path) for path in weights]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            with contextlib.suppress(psutil.Error):
                for process in [self._root, *self._root.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error, OSError):
                        self._see(process)

    def _see(self, process: psutil.Process) -> None:
        title = " ".join(process.cmdline())
        role = next((role for mark, role in ROLES.items() if mark in title), "other")
        self.peaks[role] = max(self.peaks.get(role, 0), process.memory_info().rss)
        maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace")
        if any(path in maps for path in self._weights):
            self.mapped.add(role)


def job(target: dict[str, Any], name: str) -> AdaptConfig:
    """Make the config of one of the jobs."""
    settings = merge(preset("demo"), SETTINGS)
    own = {"dtype": "float32", "vllm": {"enforce_eager": True}}
    return AdaptConfig.model_validate({**settings, "target": own | target, "served_name": name})


def run(config: AdaptConfig, home: Path) -> dict[str, Any]:
    """Run one job in processes of its own; return what was observed."""
    found = resolve_target(config.target)
    weights = [path.resolve() for path in found.model_dir.glob("*.safetensors")]
    environment = os.environ | {"EDA_HOME": str(home), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.vllm_job", "--job", config.model_dump_json()], env=environment
    )
    with Watch(child.pid, weights) as watch:
        code = child.wait()
    if code:
        raise SystemExit(f"{config.served_name} ended with {code}; its messages are above")
    from eda_service.records import EvalReport, SelfGenManifest, Stage
    from eda_service.storage.runs.run import RunDir

    job_run = RunDir.of_job(f"bench_{config.served_name}", home)
    report, generated = job_run.require(EvalReport), job_run.require(SelfGenManifest)
    stages = {}
    for stage in (Stage.GENERATE, Stage.TRAIN, Stage.EVALUATE):
        stages[stage.value] = json.loads((job_run.root / stage.value / "record.json").read_text()).get("seconds")
    return {
        "target": config.target.model_dump(mode="json", exclude_defaults=True),
        "seconds": round(time.monotonic() - began, 1),
        "stage_seconds": stages,
        "num_answer_tokens": generated.num_answer_tokens,
        "acceptance_length": {row.draft: round(row.acceptance_length, 4) for row in report.acceptance},
        "acceptance_by_position": {
            row.draft: [round(rate, 4) for rate in row.acceptance_by_position] for row in report.acceptance
        },
        "tokens_per_s": {row.mode: round(row.tokens_per_s, 2) for row in report.speed},
        "lossless": report.lossless.model_dump(),
        "peak_mb": {role: round(peak / 1e6) for role, peak in sorted(watch.peaks.items())},
        "roles_that_map_the_weights": sorted(watch.mapped),
    }


JOBS: dict[str, dict[str, Any]] = {
    "own": {"engine": "eda"},
    "vllm": {"engine": "vllm"},
    "three_ranks": {"engine": "vllm", "vllm": {"tensor_parallel_size": 3, "enforce_eager": True}},
}
"""Settings of the target, by job."""


def main() -> None:
    """Run the jobs one after the other; results of an earlier run that are not repeated are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job is not None:
        from eda_service.pipeline.driver import run_pipeline
        from eda_service.storage.runs.run import RunDir

        config = AdaptConfig.model_validate_json(arguments.job)
        own = RunDir.of_job(f"bench_{config.served_name}")
        own.create(config, origin="benchmark")
        run_pipeline(own, config)
        return
    from benchmarks.workloads import RESULTS

    path = RESULTS / RESULT
    found: dict[str, Any] = json.loads(path.read_text())["jobs"] if path.exists() else {}
    with tempfile.TemporaryDirectory(prefix="eda-vllm-job-") as scratch:
        for name in arguments.jobs.split(","):
            home = Path(scratch) / f"home-{name}"
            home.mkdir()
            found[name] = run(job({"model": TARGET, **JOBS[name]}, name.replace("_", "-")), home)
            shutil.rmtree(home, ignore_errors=True)
            write_result(RESULT, {**header("make bench NAME=vllm-job"), **compared(found), "jobs": found})
            sys.stderr.write(f"{name}: {json.dumps(found[name])}\n")


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """Divide the acceptance of the adapted draft by that with the own engine, and list which processes besides vLLM
    mapped the target.
    """
    own = found.get("own", {}).get("acceptance_length", {}).get("adapted_draft")
    return {
        "acceptance_over_own": {
            name: round(each["acceptance_length"]["adapted_draft"] / own, 4)
            for name, each in found.items()
            if own and name != "own"
        },
        "roles_with_the_target_beside_vllm": sorted(
            {
                role
                for name, each in found.items()
                if name != "own"
                for role in each["roles_that_map_the_weights"]
                if role not in {ROLES[mark] for mark in VLLM}
            }
        ),
    }


if __name__ == "__main__":
    main()
