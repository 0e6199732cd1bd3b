"""How the soak judges what it sees: answers, growth, and what may not be left."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.resilience.soak import outcome_of, problems_of

CHUNK = 'data: {"id": "x"}\n\n'
DONE = "data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("status", "text", "is_stream", "outcome"),
    [
        (200, CHUNK + DONE, True, "200"),
        (200, CHUNK, True, "stream_without_end"),
        (200, CHUNK + DONE + DONE, True, "stream_without_end"),
        (200, DONE + CHUNK, True, "stream_without_end"),
        (200, '{"choices": []}', False, "200"),
        (503, '{"error": {}}', True, "503"),
        (429, '{"error": {}}', False, "429"),
    ],
)
def test_only_a_stream_that_began_must_end(status: int, text: str, is_stream: bool, outcome: str) -> None:
    assert outcome_of(httpx.Response(status, text=text), is_stream=is_stream) == outcome


def a_result(**changes: Any) -> dict[str, Any]:
    quiet = {"broken_traffic": [], "processes_of_ended_jobs": [], "processes_after_stop": [], "files_left": []}
    return {"jobs": {"problems": []}, "requests": {"200": 5, "503": 2}, "growth_mb_per_h": {}, **quiet, **changes}


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({}, []),
        ({"growth_mb_per_h": {"api": {"num_processes": 1, "median": 12.0}}}, []),
        ({"growth_mb_per_h": {"api": {"num_processes": 1, "median": 900.0}}}, ["api grows by 900.0 MB an hour"]),
        ({"requests": {"500": 3}}, ["3 answers of 500"]),
        ({"requests": {"stream_without_end": 1}}, ["a stream ended without [DONE]"]),
        ({"jobs": {"problems": ["a is stuck: running"]}}, ["a is stuck: running"]),
        ({"files_left": ["packs/a/.staging-1"]}, ["files_left: ['packs/a/.staging-1']"]),
        ({"processes_after_stop": [7]}, ["processes_after_stop: [7]"]),
    ],
)
def test_what_did_not_hold_is_told(changes: dict[str, Any], problems: list[str]) -> None:
    assert problems_of(a_result(**changes)) == problems
