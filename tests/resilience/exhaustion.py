"""Everything used up: `make proof NAME=exhaustion` writes `benchmarks/results/exhaustion.json`.

An API process whose clock jumps. Then one service (`eda up`: a real API process, Ray, Serve, a tiny target) whose run
directories lie on a small file system of their own: 200 slow clients, 1,000 event streams, a body of 1 GB, prompts that
grow, the file system filled in each stage of a job, a worker that gets no more memory. Each time the service must
answer within its limits, during or right afterwards, and what it had accepted must be whole.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

from benchmarks.workloads import RESULTS, header, write_result
from eda_service.client import Adaptation, Client
from eda_service.records import STAGES
from eda_service.storage.files import sha256_file
from eda_service.storage.published.registry import find_pack
from tests.resilience import exhaustion_clients as clients
from tests.resilience.exhaustion_clock import clock_jumps
from tests.resilience.faults import HELD_OPEN, Bench

RESULT = "exhaustion.json"
DISK_BYTES = 64 << 20
MEMORY_BYTES = 16 << 20
TIMEOUT_S = 900.0
HEALTH_S = 10.0
_STARVED = {"generate": "shard-00001", "train": "train/"}
"""By stage, what a worker has just written when it gets no more memory."""
NAMES = (
    *("clock_jumps", "slow_clients", "event_streams", "endless_body", "bomb_prompts"),
    *(f"full_disk_{stage.value}" for stage in STAGES),
    *(f"no_memory_{stage}" for stage in _STARVED),
)
QUESTION = [{"role": "user", "content": "the other one and the user"}]


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """A file system of `DISK_BYTES` at a directory.

    Raises:
        SystemExit: This user may not mount one.
    """
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "eda-exhaustion", str(path)]
    if subprocess.run(mount, check=False).returncode:
        raise SystemExit("a tmpfs cannot be mounted: run this as root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class Exhaustion:
    """The cases over one service.

    Args:
        bench: The running service.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench, self.url = bench, str(bench.service.up_file["api_url"])
        self.runs, self.filler = bench.home / "runs", bench.home / "runs" / "filler"
        self.kept = self._submit()
        with Client(self.url) as client:
            shared = {"model": str(bench.target_dir), "dtype": "float32", "base_draft": "tiny@1"}
            client.deployments.create({**shared, "name": "tiny"})
            client.deployments.wait_ready("tiny", timeout_s=TIMEOUT_S)
            self.reference = self._digest(client.wait(self.kept.id, timeout_s=TIMEOUT_S))

    def _submit(self) -> Adaptation:
        with Client(self.url, max_retries=20) as client:
            return client.create(self.bench.body(), idempotency_key=f"{time.time_ns()}")

    def _digest(self, job: Adaptation) -> str | None:
        if job.result_pack is None:
            return None
        return sha256_file(find_pack(job.result_pack, self.bench.home) / "pack.safetensors")

    def cases(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """Each case by name."""
        yield "slow_clients", lambda: asyncio.run(clients.slow_clients(self.url, 200))
        yield "event_streams", self.event_streams
        yield "endless_body", lambda: clients.endless_body(self.url, 1 << 30)
        yield "bomb_prompts", lambda: asyncio.run(clients.bomb_prompts(self.url, "tiny"))
        for stage in STAGES:
            yield f"full_disk_{stage.value}", lambda stage=stage.value: self.full_disk(stage)  # type: ignore[misc]
        for name, match in _STARVED.items():
            yield f"no_memory_{name}", lambda match=match: self.no_memory(match)  # type: ignore[misc]

    def event_streams(self) -> dict[str, Any]:
        """Streams of a job that is queued behind another."""
        first, second = self._submit(), self._submit()
        with Client(self.url) as client:
            found = asyncio.run(clients.event_streams(self.url, second.id, 1000, lambda: client.cancel(second.id)))
            client.cancel(first.id)
            client.wait(first.id, timeout_s=TIMEOUT_S)
        return found

    def full_disk(self, stage: str) -> dict[str, Any]:
        """Fill the disk as soon as a stage runs; free it when the job has ended; go on with the job."""
        self._arm(
            {"role": "driver", "when": "before", "pause_s": 5.0, **HELD_OPEN[stage]} if stage in HELD_OPEN else None
        )
        job = self._submit()
        with Client(self.url, max_retries=20) as client:
            for seen in client.watch(job.id, interval_s=0.05):
                if seen.stage == stage:
                    self._fill()
                    break
            ended = client.wait(job.id, timeout_s=TIMEOUT_S)
            is_well = self._is_well()
            self.filler.unlink(missing_ok=True)
            return {
                "ended": ended.status,
                "code": _code(ended),
                "was_well_when_full": is_well,
                **self._go_on(client, ended),
            }

    def no_memory(self, match: str) -> dict[str, Any]:
        """A worker gets no more memory once it has written something; the job is tried again, or retried by hand."""
        self._arm({"role": "worker", "op": "replace", "when": "after", "match": match, "memory_bytes": MEMORY_BYTES})
        job = self._submit()
        with Client(self.url, max_retries=20) as client:
            ended = client.wait(job.id, timeout_s=TIMEOUT_S)
            fired = self.bench.fault_file.with_name("fault.json.fired").exists()
            self._arm(None)
            return {"fired": fired, "ended": ended.status, "code": _code(ended), **self._go_on(client, ended)}

    def _go_on(self, client: Client, job: Adaptation) -> dict[str, Any]:
        if job.status == "failed":
            client.retry(job.id)
            job = client.wait(job.id, timeout_s=TIMEOUT_S)
        return {
            "afterwards": job.status,
            "attempts": job.attempt,
            "pack_as_undisturbed": self._digest(job) == self.reference,
        }

    def _arm(self, fault: dict[str, Any] | None) -> None:
        for path in self.bench.fault_file.parent.glob("fault.json*"):
            path.unlink()
        if fault is not None:
            self.bench.fault_file.write_text(json.dumps(fault))

    def _fill(self) -> None:
        with suppress(OSError), self.filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))

    def _is_well(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=HEALTH_S).is_success
        return False

    def afterwards(self) -> dict[str, Any]:
        """What must hold after each case: it answers, it generates, and the first job is as it was."""
        api = psutil.Process(int(self.bench.service.up_file["pids"]["api"]))
        body = {"model": "tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 8}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)
        with Client(self.url) as client:
            kept = client.get(self.kept.id)
        return {
            "healthy": self._is_well(),
            "generates": answer.status_code == 200,
            "first_job_intact": kept.status == "succeeded" and self._digest(kept) == self.reference,
            "api_rss_mb": round(api.memory_info().rss / 1e6),
            "api_files": api.num_fds(),
        }


def _code(job: Adaptation) -> str | None:
    return None if job.error is None else job.error.code


def problems_of(name: str, case: dict[str, Any]) -> list[str]:
    """What did not hold in a case."""
    wanted: dict[str, Any] = {"healthy": True, "generates": True, "first_job_intact": True, "num_health_failed": 0}
    if name == "slow_clients":
        wanted["num_ended_by_service"] = case.get("num_clients")
    elif name == "event_streams":
        wanted |= {"num_opened": case.get("num_streams"), "num_told_the_end": case.get("num_streams")}
    elif name == "clock_jumps":
        wanted |= {"num_wrong": 0, "num_cancelled_afterwards": case.get("num_jobs")}
    elif name == "endless_body":
        wanted["status"] = 413
    elif name.startswith(("full_disk", "no_memory")):
        wanted |= {"afterwards": "succeeded", "pack_as_undisturbed": True}
    problems = [f"{key} is {case[key]!r}" for key, value in wanted.items() if key in case and case[key] != value]
    if case.get("num_bytes_taken", 0) > 64 << 20:
        problems.append(f"{case['num_bytes_taken']} bytes of a body were read")
    if any(status.startswith("5") and status != "503" for status in case.get("by_status", {})):
        problems.append(f"answers of 5xx: {case['by_status']}")
    if name.startswith("full_disk") and case.get("ended") == "failed" and case.get("code") != "insufficient_storage":
        problems.append(f"a full disk was told as {case.get('code')}")
    return problems


def main() -> None:
    """Every case, and after each the same questions; cases that held are not run again with `--resume`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--resume", action="store_true", help="keep the cases of the result file that held")
    arguments = parser.parse_args()
    found = held_before() if arguments.resume else {}

    def is_wanted(name: str) -> bool:
        return arguments.only in name and name not in found

    def note(name: str, case: dict[str, Any]) -> None:
        found[name] = {**case, "problems": problems_of(name, case)}
        sys.stderr.write(f"{name}: {json.dumps(found[name])}\n")
        write_result(RESULT, summary(found))

    with tempfile.TemporaryDirectory(prefix="eda-exhaustion-") as directory:
        if is_wanted("clock_jumps"):
            note("clock_jumps", clock_jumps(Path(directory) / "clock"))
        os.environ["EDA_MAX_ATTEMPTS"] = "3"
        bench = Bench(Path(directory), {"EDA_SERVE": "true"})
        with small_disk(bench.home / "runs"), bench.service:
            exhaustion = Exhaustion(bench)
            for name, run in exhaustion.cases():
                if is_wanted(name):
                    note(name, {**run(), **exhaustion.afterwards()})
    if any(case["problems"] for case in found.values()):
        raise SystemExit(f"something did not hold; see benchmarks/results/{RESULT}")


def held_before() -> dict[str, dict[str, Any]]:
    """The cases of the result file in which nothing broke."""
    path = RESULTS / RESULT
    known = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else {}
    return {name: case for name, case in known.items() if not case["problems"]}


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The result file."""
    return {
        **header("make proof NAME=exhaustion"),
        "num_cases": len(found),
        "not_run": [name for name in NAMES if name not in found],
        "num_held": sum(not case["problems"] for case in found.values()),
        "num_problems": sum(len(case["problems"]) for case in found.values()),
        "cases": found,
    }


if __name__ == "__main__":
    main()
