"""Fuzzing with a time box: `make proof NAME=fuzz MINUTES=10` writes `benchmarks/results/fuzz.json`.

Each reader of strangers' input in turn (`fuzz_targets`), then a real API process: requests along the links of its
OpenAPI document, and connections that send broken HTTP. A failure is an exception that is no error of ours, an answer
of 5xx or one that the document does not describe, an input that takes longer than ten seconds, or a process that is
gone.
"""

from __future__ import annotations

import argparse
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from api.openapi import PATH
from benchmarks.jobs_load import api_process, small_draft
from benchmarks.workloads import ROOT, header, write_result
from tests.resilience.fuzz_targets import mutated, open_targets

RESULT = "fuzz.json"
HANG_S = 10
FIXED = (
    "deeply nested `config` was answered with 500",
    "an estimate beside an unreadable base draft was answered with 500",
    "a deeply nested line of a prompt file was answered with 500",
    "ids with a line break at their end were taken",
    "a thousand event streams of one job held up every other request",
    "a role that is a list in a prompt file was no error of ours",
    "a file among the run directories stopped the dispatcher",
)
"""Failures that fuzzing and probing found and that are mended; each has a test."""
_SOUND = (
    b"POST /v1/adaptations HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\ncontent-length: 60\r\n"
    b'x-request-id: abc\r\n\r\n{"model": "org/model", "base_draft": "small@1", "seed": 123}'
    b"GET /v1/adaptations?limit=2&metadata[a]=b HTTP/1.1\r\nHost: localhost\r\nauthorization: Bearer eda_1_2\r\n\r\n"
)


class HangError(Exception):
    """An input took too long."""


def _hang(*_: object) -> None:
    raise HangError(f"longer than {HANG_S} s")


def for_seconds(seconds: float, inputs: Any, check: Callable[[Any], None], *, batch: int) -> dict[str, Any]:
    """Try inputs until the time is over, each batch with a seed of its own; a failure ends the target."""
    num_tried, failures, deadline, round_seed = 0, [], time.monotonic() + seconds, 0
    signal.signal(signal.SIGALRM, _hang)

    def timed(value: Any) -> None:
        nonlocal num_tried
        num_tried += 1
        signal.alarm(HANG_S)
        try:
            check(value)
        finally:
            signal.alarm(0)

    bounds = settings(max_examples=batch, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    while time.monotonic() < deadline and not failures:
        round_seed += 1
        try:
            seed(round_seed)(bounds(given(inputs)(timed)))()
        except (Exception, HypothesisException):
            failures.append(_told())
    return {"num_inputs": num_tried, "failures": failures}


def linked_calls(url: str, seconds: float) -> dict[str, Any]:
    """Requests along the document's links."""
    from tests.linked_calls import chain

    machine = chain(schemathesis.openapi.from_path(PATH), url)
    failures, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline and not failures:
        bounds = settings(
            max_examples=4,
            stateful_step_count=12,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        try:
            machine.run(settings=bounds)
        except Exception:
            failures.append(_told())
    return {"num_inputs": machine.num_calls, "failures": failures}


def broken_http(url: str, seconds: float) -> dict[str, Any]:
    """Bytes that are nearly HTTP, sent in pieces."""
    parts = httpx.URL(url)
    chance = random.Random(0)

    def check(data: bytes) -> None:
        with socket.create_connection((parts.host, parts.port or 80), timeout=HANG_S - 1) as opened:
            middle = chance.randrange(len(data) + 1)
            try:
                opened.sendall(data[:middle])
                opened.sendall(data[middle:])
                opened.shutdown(socket.SHUT_WR)
                answer = b""
                while part := opened.recv(65536):
                    answer += part
            except TimeoutError:
                raise
            except OSError:
                return  # cut while bytes were on their way
        for line in answer.split(b"\r\n"):
            if line.startswith(b"HTTP/1.1 "):
                assert line[9:10] in b"1234", line

    inputs = mutated(_SOUND) | st.binary(max_size=200).map(lambda data: data + b"\r\n\r\n")
    found = for_seconds(seconds, inputs, check, batch=50)
    if not httpx.get(f"{url}/health", timeout=30).is_success:
        found["failures"].append("the service does not answer any more")
    return found


def _told() -> str:
    """The end of the traceback of what is being handled, with paths as they are in the repository."""
    return traceback.format_exc(limit=-4).replace(f"{ROOT}/", "")[-2000:]


def _say(name: str, result: dict[str, Any]) -> None:
    sys.stderr.write(f"{name}: {result['num_inputs']} inputs, {len(result['failures'])} failures\n")


def main() -> None:
    """Every target, each with an equal part of the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with open_targets() as opened:
        share_s = arguments.minutes * 60 / (len(opened) + 2)
        for name, target in opened.items():
            found[name] = for_seconds(share_s, target.inputs, target.check, batch=100)
            _say(name, found[name])
    with tempfile.TemporaryDirectory(prefix="eda-fuzz-") as name:
        home = Path(name)
        small_draft(home)
        with api_process(home, f"sqlite:///{home / 'eda.db'}") as url:
            for kind, run in (("linked_calls", linked_calls), ("broken_http", broken_http)):
                found[kind] = run(url, share_s)
                sys.stderr.write(
                    f"{kind}: {found[kind]['num_inputs']} inputs, {len(found[kind]['failures'])} failures\n"
                )
    remaining = sum(len(each["failures"]) for each in found.values())
    write_result(
        RESULT,
        {
            **header(f"make proof NAME=fuzz MINUTES={arguments.minutes:g}"),
            "num_inputs": sum(each["num_inputs"] for each in found.values()),
            "num_failures_found": len(FIXED) + remaining,
            "num_fixed": len(FIXED),
            "num_remaining": remaining,
            "fixed": FIXED,
            "targets": found,
        },
    )
    if remaining:
        raise SystemExit(f"{remaining} failures; see benchmarks/results/{RESULT}")


if __name__ == "__main__":
    main()
