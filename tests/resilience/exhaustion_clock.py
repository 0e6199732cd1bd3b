"""A real API process whose clock jumps, by libfaketime: jobs, keys, idempotency and events stay what they were."""

from __future__ import annotations

import glob
import os
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.jobs_load import BODY, api_process, small_draft
from eda_service.jobstore import JobStore

_PLACES = "/usr/lib/*/faketime/libfaketimeMT.so.1"
JUMPS = ("+1d", "-1d", "+400d", "+0", "-3h", "+2h", "+0")
_DAY_S = 86_400


def clock_jumps(home: Path) -> dict[str, Any]:
    """Jump, and after each jump look at everything that was accepted before.

    Raises:
        SystemExit: libfaketime is not installed.
    """
    library = next(iter(glob.glob(_PLACES)), None)
    if library is None:
        raise SystemExit("libfaketime is not there; apt-get install libfaketime")
    offset = home / "offset"
    small_draft(home)
    offset.write_text("+0\n")
    fake = {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    database = f"sqlite:///{home / 'eda.db'}"
    store = JobStore(database)
    keys = {
        name: store.keys.create("a", name, ["admin"], expires_at)[1]
        for name, expires_at in (("lasting", None), ("short", int(time.time()) + _DAY_S // 2))
    }
    store.close()
    before = {name: os.environ.get(name) for name in fake}
    os.environ |= fake
    try:
        with api_process(home, database) as url:
            return _jump(url, offset, keys)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _jump(url: str, offset: Path, keys: dict[str, str]) -> dict[str, Any]:
    jobs: dict[str, int] = {}
    wrong: list[str] = []
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:

        def ask(method: str, path: str, key: str = "lasting", **options: Any) -> httpx.Response:
            headers = {"authorization": f"Bearer {keys[key]}", **options.pop("headers", {})}
            return http.request(method, path, headers=headers, **options)

        for number, jump in enumerate(JUMPS):
            offset.write_text(f"{jump}\n")
            time.sleep(2.0)
            made = ask(
                "POST", "/v1/adaptations", json={**BODY, "seed": number}, headers={"idempotency-key": f"k{number}"}
            )
            again = ask(
                "POST", "/v1/adaptations", json={**BODY, "seed": number}, headers={"idempotency-key": f"k{number}"}
            )
            jobs[made.json()["id"]] = number
            checks = {
                "made": made.status_code == 201,
                "replayed": again.status_code == 200 and again.json()["id"] == made.json()["id"],
                "healthy": http.get("/health").is_success,
                "short_key": ask("GET", "/v1/adaptations", "short").status_code
                == (401 if jump in ("+1d", "+400d") else 200),
                "all_there": {job["id"] for job in ask("GET", "/v1/adaptations?limit=100").json()["data"]} == set(jobs),
                "events": all(ask("GET", f"/v1/adaptations/{job}/events").json()["data"] for job in jobs),
                "seeds": all(ask("GET", f"/v1/adaptations/{job}").json()["seed"] == seed for job, seed in jobs.items()),
            }
            wrong += [f"after {jump}: {name}" for name, holds in checks.items() if not holds]
        cancelled = [ask("POST", f"/v1/adaptations/{job}/cancel").json()["status"] for job in jobs]
    return {
        "num_jumps": len(JUMPS),
        "num_jobs": len(jobs),
        "num_cancelled_afterwards": cancelled.count("cancelled"),
        "num_wrong": len(wrong),
        "wrong": wrong,
    }
