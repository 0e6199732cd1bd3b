"""kill -9, again and again, in real adaptations: `make proof NAME=kills` writes `benchmarks/results/kills.json`.

The target is SmolLM2-135M with its math adapter, the pipeline whole, the budget small. The first job is left alone. In
the second a process dies in every stage, of every kind; in the others a process of a random kind dies every twenty to
forty seconds, five times. Every job must succeed, with a pack equal byte for byte to the first one's.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.workloads import header, write_result
from eda_service.client import Client
from eda_service.storage.files import sha256_file
from eda_service.storage.published.registry import find_pack
from tests.resilience.process_roles import ROLES, process_ids

RESULT = "kills.json"
TIMEOUT_S = 1800.0
NUM_KILLS = 5
IN_EVERY_STAGE = (
    ("validate", "driver"),
    ("generate", "generation_actor"),
    ("generate", "driver"),
    ("generate", "driver_shell"),
    ("generate", "ray_head"),
    ("select", "driver"),
    ("train", "train_worker"),
    ("train", "api"),
    ("train", "driver"),
    ("train", "driver_shell"),
    ("train", "ray_head"),
    ("evaluate", "driver"),
    ("evaluate", "api"),
    ("publish", "driver"),
)
BODY: dict[str, Any] = {
    "model": "smollm2-135m-math",
    "preset": "demo",
    "force": True,
    "config": {
        "dataset": {"num_prompts": 64},
        "selfgen": {"max_new_tokens": 48, "batch_size": 16, "shard_size": 16, "num_actors": 1},
        "selection": {"num_reference_prompts": 8, "reference_max_new_tokens": 16},
        "train": {"epochs": 4, "checkpoint_every_steps": 4, "num_workers": 1},
        "evaluation": {"num_prompts": 4, "max_new_tokens": 32, "num_timed_prompts": 0},
        "deploy": {"min_gain": 0, "min_speed_gain": 0},
    },
}


def in_every_stage(client: Client, job_id: str, up_file: Any) -> Iterator[str]:
    """Kill what the list says, each once its stage runs; yields what was killed."""
    left = list(IN_EVERY_STAGE)
    seen_in = ""
    for job in client.watch(job_id, interval_s=0.1):
        seen_in = job.stage or seen_in
        if not left or seen_in != left[0][0]:
            left = [each for each in left if seen_in == "" or _is_later(each[0], seen_in)]
            continue
        time.sleep(1.0 if seen_in in ("generate", "train") else 0.1)
        found = process_ids(up_file(), left[0][1], job_id)
        if found and _kill(found[0]):
            yield "-".join(reversed(left.pop(0)))


def at_random(client: Client, job_id: str, up_file: Any, seed: int) -> Iterator[str]:
    """Kill a process of a random kind every now and then; yields what was killed."""
    choose, killed = random.Random(seed), 0
    next_at = time.monotonic() + choose.uniform(5, 20)
    for job in client.watch(job_id, interval_s=0.1):
        if killed == NUM_KILLS or time.monotonic() < next_at or job.status != "running":
            continue
        role = choose.choice(ROLES)
        found = process_ids(up_file(), role, job_id)
        if found and _kill(found[0]):
            killed, next_at = killed + 1, time.monotonic() + choose.uniform(20, 40)
            yield f"{role}-{job.stage}"


def _is_later(stage: str, than: str) -> bool:
    order = [each for each, _ in IN_EVERY_STAGE]
    return order.index(stage) >= order.index(than)


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def adapt(service: Any, kind: str, seed: int) -> dict[str, Any]:
    """One job to its end."""
    started = time.monotonic()
    with Client(str(service.up_file["api_url"]), max_retries=20) as client:
        job = client.create(BODY)
        if kind == "uninterrupted":
            killed = []
        elif kind == "in_every_stage":
            killed = list(in_every_stage(client, job.id, lambda: service.up_file))
        else:
            killed = list(at_random(client, job.id, lambda: service.up_file, seed))
        ended = client.wait(job.id, timeout_s=TIMEOUT_S)
    pack = None if ended.result_pack is None else find_pack(ended.result_pack, service.home) / "pack.safetensors"
    return {
        "kind": kind,
        "killed": killed,
        "status": ended.status,
        "code": None if ended.error is None else ended.error.code,
        "attempts": ended.attempt,
        "pack_sha256": None if pack is None else sha256_file(pack),
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> None:
    """All jobs, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random-jobs", type=int, default=3)
    arguments = parser.parse_args()
    from tests.integration.running import Service

    kinds = ["uninterrupted", "in_every_stage", *["at_random"] * arguments.random_jobs]
    jobs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="eda-kills-") as name:
        home = Path(name) / "home"
        home.mkdir()
        settings = {"EDA_SERVE": "false", "EDA_MAX_ATTEMPTS": "30", "EDA_BACKOFF_S": "0.2", "EDA_GRACE_S": "5"}
        with Service(home, settings) as service:
            for seed, kind in enumerate(kinds):
                jobs.append(adapt(service, kind, seed))
                jobs[-1]["pack_as_uninterrupted"] = jobs[-1]["pack_sha256"] == jobs[0]["pack_sha256"]
                sys.stderr.write(json.dumps(jobs[-1]) + "\n")
                write_result(RESULT, summary(jobs))
    if any(job["status"] != "succeeded" or not job["pack_as_uninterrupted"] for job in jobs):
        raise SystemExit("a job did not succeed, or with another pack")


def summary(jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """The result file."""
    return {
        **header("make proof NAME=kills"),
        "num_kills": sum(len(job["killed"]) for job in jobs),
        "num_jobs": len(jobs),
        "num_succeeded": sum(job["status"] == "succeeded" for job in jobs),
        "num_equal_packs": sum(job["pack_as_uninterrupted"] for job in jobs),
        "jobs": jobs,
    }


if __name__ == "__main__":
    main()
