"""CPU time under a load by role: the processes of a service, and the load generator."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

import psutil  # type: ignore[import-untyped]

from benchmarks.bench_service import BenchService

ROLES = {
    "ServeReplica": "replica",
    "ProxyActor": "serve proxy",
    "ServeController": "serve controller",
    "-m api": "api",
    "raylet/raylet": "raylet",
    "gcs_server": "gcs",
}
"""Roles by a part of a process's command line; any other process of the service is `other ray`."""


def cpu_seconds(bench_service: BenchService) -> Counter[str]:
    """Count the CPU seconds so far, by role."""
    found: Counter[str] = Counter()
    for process in bench_service.processes():
        with contextlib.suppress(psutil.Error):
            words, times = " ".join(process.cmdline()), process.cpu_times()
            role = next((role for part, role in ROLES.items() if part in words), "other ray")
            found[role] += times.user + times.system
    times = psutil.Process().cpu_times()
    found["load generator"] = times.user + times.system
    return found


@contextlib.contextmanager
def cpu_shares(bench_service: BenchService) -> Iterator[dict[str, float]]:
    """Fill the dict, at the end of the block, with each role's share of the CPU time of all."""
    before, shares = cpu_seconds(bench_service), {}
    yield shares
    spent = {role: seconds - before[role] for role, seconds in cpu_seconds(bench_service).items()}
    total = sum(spent.values())
    shares |= {role: round(seconds / total, 3) for role, seconds in sorted(spent.items(), key=lambda each: -each[1])}
