"""What moves in a service while it works on something, for waits that end when nothing does."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

from eda_service.raycluster import processes

_QUANTUM_S = 10  # of CPU time: what waits for requests takes less than this before a wait ends
_ALWAYS_BUSY = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::ServeController", "ray::ProxyActor")


def pulse_of(up_file: Mapping[str, Any]) -> tuple[object, ...]:
    """Jobs with their steps, deployments with their states, and the CPU time of drivers, workers and replicas."""
    url = str(up_file["api_url"])
    jobs = [
        (job["id"], job["status"], job["attempt"], job["stage"], (job["progress"] or {}).get("step"))
        for job in _listed(url, "adaptations")
    ]
    deployments = [
        (each["name"], each["state"], each["loaded_pack"], each["replicas"]["running"])
        for each in _listed(url, "deployments")
    ]
    return jobs, deployments, _cpu_quanta(up_file)


def _listed(url: str, what: str) -> list[dict[str, Any]]:
    with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
        found: list[dict[str, Any]] = httpx.get(f"{url}/v1/{what}", timeout=30, trust_env=False).json()["data"]
        return found
    return []


def _cpu_quanta(up_file: Mapping[str, Any]) -> int:
    used_s = 0.0
    for process in (each for mark in up_file["marks"] for each in processes.marked(mark)):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if "jobs." in command or (command.startswith("ray::") and not command.startswith(_ALWAYS_BUSY)):
                times = process.cpu_times()
                used_s += times.user + times.system
    return int(used_s) // _QUANTUM_S
