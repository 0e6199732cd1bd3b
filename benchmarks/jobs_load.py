"""The job service under load: `make bench NAME=jobs` writes `benchmarks/results/jobs.json`.

A real API process over a database with 10,000 queued jobs receives 100 POSTs a second, in an open loop: a request is
sent at its due time, and its latency counts from then, whether or not earlier ones were answered. Meanwhile lists are
read. Then 64 equal requests are sent at once with one idempotency key, and on a real Ray head the time from POST to a
running driver is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.workloads import ROOT, header, write_result
from eda_service.config.job import AdaptConfig, DatasetSpec, TargetSpec
from eda_service.jobstore import JobStore
from eda_service.raycluster.processes import free_port

BODY = {"model": "org/model", "base_draft": "small@1", "force": True}
TINY_JOB = ROOT / "tests" / "integration" / "tiny_job.py"
_READY_S = 240.0


@contextmanager
def api_process(home: Path, database_url: str) -> Iterator[str]:
    """Run `python -m api` on a free port, without a cluster."""
    port = free_port()
    env = {
        **os.environ,
        "EDA_HOME": str(home),
        "EDA_PORT": str(port),
        "EDA_SERVE": "false",
        "EDA_DATABASE_URL": database_url,
        "EDA_RAY_DASHBOARD_URL": f"http://127.0.0.1:{free_port()}",
        "EDA_MAX_QUEUED_PER_OWNER": "100000",
        "EDA_HUB_AT_SUBMIT": "skip",
    }
    with (home / "api.log").open("ab") as log:
        child = subprocess.Popen([sys.executable, "-m", "api"], env=env, cwd=ROOT, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(lambda: httpx.get(f"{url}/health", timeout=5).is_success)
        yield url
    finally:
        child.terminate()
        child.wait(30)


def _wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        try:
            if ready():
                return
        except (httpx.HTTPError, OSError):
            pass
        time.sleep(0.2)
    raise TimeoutError(f"not ready after {_READY_S:.0f} s")


def prefill(database_url: str, count: int) -> float:
    """Queue jobs directly through the store; return how many per second."""
    store, started = JobStore(database_url), time.monotonic()
    for n in range(count):
        config = AdaptConfig(target=TargetSpec(model="org/model"), dataset=DatasetSpec(num_prompts=1000), seed=n)
        store.jobs.create(config, owner=f"owner-{n % 8}")
    store.close()
    return count / (time.monotonic() - started)


async def open_loop(rate: float, seconds: float, send: Callable[[int], Awaitable[int]]) -> tuple[list[float], int]:
    """Measure latencies in milliseconds from each request's due time; return them with the number of failures."""
    started = time.monotonic() + 1.0  # creating thousands of waiting tasks comes first

    async def one(n: int) -> tuple[float, bool]:
        due = started + n / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        try:
            good = 200 <= await send(n) < 300
        except httpx.HTTPError:
            good = False
        return 1e3 * (time.monotonic() - due), good

    results = await asyncio.gather(*(one(n) for n in range(round(rate * seconds))))
    return [latency for latency, _ in results], sum(not good for _, good in results)


async def load(url: str, rate: float, seconds: float) -> dict[str, Any]:
    """Send POSTs and read lists at the same time."""
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    passes: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits, trust_env=False) as http:

        async def post(n: int) -> int:
            return (await http.post("/v1/adaptations", json={**BODY, "seed": n})).status_code

        async def read(n: int) -> int:
            if n % 5 == 0:
                passes.append((await http.get("/health")).json()["dispatcher_pass_s"])
            status = {"status": "queued"} if n % 2 else {}
            return (await http.get("/v1/adaptations", params={"limit": 20, **status})).status_code

        (posts, bad_posts), (lists, bad_lists) = await asyncio.gather(
            open_loop(rate, seconds, post), open_loop(5.0, seconds, read)
        )
    return {
        "posts": {**quantiles(posts), "errors": bad_posts, "rate_per_s": rate, "seconds": seconds},
        "lists": {**quantiles(lists), "errors": bad_lists},
        "dispatcher_pass_ms": quantiles([1e3 * each for each in passes]),
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """Compute the median, the tail and the largest value."""
    ordered = sorted(values)
    at = {f"p{p:g}": ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in (50, 95, 99)}
    return {"count": len(ordered), **{name: round(value, 2) for name, value in (at | {"max": ordered[-1]}).items()}}


async def one_key(url: str, count: int) -> dict[str, int]:
    """Send equal POSTs at once with one idempotency key."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        body, headers = {**BODY, "seed": 12345}, {"idempotency-key": "one-key"}
        answers = await asyncio.gather(
            *(http.post("/v1/adaptations", json=body, headers=headers) for _ in range(count))
        )
    return {
        "requests": count,
        "created": sum(answer.status_code == 201 for answer in answers),
        "replayed": sum(answer.status_code == 200 for answer in answers),
        "different_jobs": len({answer.json()["id"] for answer in answers}),
    }


def overhead(repeats: int) -> dict[str, float]:
    """Measure the seconds from POST to the driver's first heartbeat, on a real Ray head."""
    with tempfile.TemporaryDirectory(prefix="eda-jobs-") as name:
        home = Path(name)
        small_draft(home)
        env = {
            **os.environ,
            "EDA_SERVE": "false",
            "EDA_JOB_COMMAND": f"{sys.executable} {TINY_JOB}",
        }
        ports = ["--port", str(free_port()), "--serve-port", str(free_port())]
        command = [sys.executable, "-m", "eda_service.cli.main", "up", "--home", str(home), *ports]
        with (home / "up.log").open("ab") as log:
            child = subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{ports[1]}"
            _wait_for(lambda: bool(httpx.get(f"{url}/health", timeout=5).json()["ray_reachable"]))
            found = [_one_job(url, home) for _ in range(repeats)]
        finally:
            child.terminate()
            child.wait(60)
    return {"median_s": round(statistics.median(found), 2), "max_s": round(max(found), 2), "repeats": repeats}


def _one_job(url: str, home: Path) -> float:
    started = time.monotonic()
    job = httpx.post(f"{url}/v1/adaptations", json={**BODY, "served_name": "succeed"}, timeout=30).json()
    events = home / "runs" / job["id"] / "events.jsonl"
    while not events.exists():
        if time.monotonic() - started > _READY_S:
            raise TimeoutError(f"{job['id']} did not start")
        time.sleep(0.01)
    took = time.monotonic() - started
    _wait_for(lambda: httpx.get(f"{url}/v1/adaptations/{job['id']}", timeout=30).json()["status"] == "succeeded")
    return took


def small_draft(home: Path) -> None:
    """Register the base draft of `BODY`."""
    from tests.draft_files import put_draft

    put_draft(home)


def measure(database_url: str | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one database: filled, under load, and with one key."""
    with tempfile.TemporaryDirectory(prefix="eda-jobs-") as name:
        home = Path(name)
        small_draft(home)
        url = database_url or f"sqlite:///{home / 'eda.db'}"
        filled = prefill(url, arguments.queued)
        with api_process(home, url) as api_url:
            asyncio.run(load(api_url, arguments.rate, 3.0))
            measured = asyncio.run(load(api_url, arguments.rate, arguments.seconds))
            return {
                "queued_before": arguments.queued,
                "store_creates_per_s": round(filled),
                **measured,
                "one_idempotency_key": asyncio.run(one_key(api_url, 64)),
            }


def on_postgres(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a PostgreSQL of this run's own, which flushes as a production server does."""
    from tests.postgres import Postgres, PostgresUnavailableError

    try:
        server = Postgres(durable=True)
    except PostgresUnavailableError as error:
        return {"skipped": str(error)}
    try:
        return measure(server.new_database(), arguments)
    finally:
        server.stop()


def main() -> None:
    """Measure both databases, then Ray."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=5, help="jobs whose start is timed")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**header("make bench NAME=jobs"), "sqlite": measure(None, arguments)}
    sys.stderr.write(json.dumps(result["sqlite"]) + "\n")
    result["postgresql"] = on_postgres(arguments)
    sys.stderr.write(json.dumps(result["postgresql"]) + "\n")
    result["post_to_running_driver"] = overhead(arguments.repeats)
    write_result("jobs.json", result)
    sys.stderr.write(json.dumps(result["post_to_running_driver"]) + "\n")


if __name__ == "__main__":
    main()
