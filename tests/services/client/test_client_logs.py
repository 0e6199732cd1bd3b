"""Followed logs: each line once and in order, from stage to stage, whatever the moment of the look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from both_clients import MakeClient
from scripted_service import Answer, Request, ScriptedService

from eda_service.client import UnexpectedAnswerError

JOB = "/v1/adaptations/adapt_1"
STAGES = ("validate", "generate", "select", "train", "evaluate", "publish")
MAX_CHUNK_BYTES = 40


class Running:
    """A job that moves on each time it is looked at; its logs answer as the service does.

    Args:
        moments: Status, stage, and what was logged up to then, by stage.
    """

    def __init__(self, moments: Sequence[tuple[str, str | None, dict[str, str]]]) -> None:
        self._moments = list(moments)
        self._logs: dict[str, bytes] = {}

    def job(self, _request: Request) -> Answer:
        status, stage, logged = self._moments.pop(0) if len(self._moments) > 1 else self._moments[0]
        for name, text in logged.items():
            self._logs[name] = text.encode()
        body: dict[str, Any] = {"id": "adapt_1", "status": status, "stage": stage, "model": "m", "base_draft": "d"}
        return Answer({**body, "served_name": "s", "created_at": 1})

    def logs(self, request: Request) -> Answer:
        asked = request.query.get("stage")
        stage = asked or next((name for name in reversed(STAGES) if name in self._logs), None)
        content = self._logs.get(stage or "", b"")
        if "after" in request.query:
            start = int(request.query["after"])
            chunk = content[start : start + MAX_CHUNK_BYTES]
            chunk = chunk[: chunk.rfind(b"\n") + 1]  # whole lines only
            lines = chunk.decode().splitlines()
            return Answer({"id": "adapt_1", "stage": stage, "lines": lines, "next": start + len(chunk)})
        lines = content.decode().splitlines()[-int(request.query["tail"]) :]
        return Answer({"id": "adapt_1", "stage": stage, "lines": lines, "next": len(content)})


def lines(stage: str, start: int, end: int) -> str:
    return "".join(f"{stage} {number}\n" for number in range(start, end))


def follow(scripted: ScriptedService, client: Any, running: Running, **options: Any) -> list[str]:
    scripted.on("GET", JOB, running.job)
    scripted.on("GET", f"{JOB}/logs", running.logs)
    return list(client.follow_logs("adapt_1", interval_s=0.0, **options))


def test_every_line_of_every_stage(scripted: ScriptedService, make_client: MakeClient) -> None:
    running = Running(
        [
            ("queued", None, {}),
            ("running", "validate", {}),
            ("running", "validate", {"validate": lines("v", 0, 2)}),
            ("running", "generate", {"validate": lines("v", 0, 3), "generate": lines("g", 0, 30)}),
            # Two stages between two looks, the last lines of one that was left, and a stage that logs nothing.
            ("running", "evaluate", {"generate": lines("g", 0, 31), "train": lines("t", 0, 20)}),
            ("running", "evaluate", {"evaluate": lines("e", 0, 1)}),
            ("succeeded", "publish", {"evaluate": lines("e", 0, 2), "publish": lines("p", 0, 12)}),
        ]
    )
    wanted = lines("v", 0, 3) + lines("g", 0, 31) + lines("t", 0, 20) + lines("e", 0, 2) + lines("p", 0, 12)
    assert follow(scripted, make_client(scripted.url), running) == wanted.splitlines()


def test_it_begins_with_the_tail_of_the_latest_stage(scripted: ScriptedService, make_client: MakeClient) -> None:
    before = {"generate": lines("g", 0, 9), "train": lines("t", 0, 9)}
    running = Running([("running", "train", before), ("failed", "train", {"train": lines("t", 0, 11)})])
    found = follow(scripted, make_client(scripted.url), running, tail=2)
    assert found == lines("t", 7, 11).splitlines()


def test_one_stage_alone(scripted: ScriptedService, make_client: MakeClient) -> None:
    running = Running(
        [
            ("running", "generate", {"generate": lines("g", 0, 1)}),
            ("running", "train", {"generate": lines("g", 0, 20), "train": lines("t", 0, 3)}),
            ("succeeded", "publish", {"train": lines("t", 0, 9)}),
        ]
    )
    found = follow(scripted, make_client(scripted.url), running, stage="generate")
    assert found == lines("g", 0, 20).splitlines()
    assert {request.query.get("stage") for request in scripted.seen("GET", f"{JOB}/logs")} == {"generate"}


def test_a_second_attempt_goes_on_in_the_same_log(scripted: ScriptedService, make_client: MakeClient) -> None:
    running = Running(
        [
            ("running", "train", {"train": lines("t", 0, 2)}),
            ("queued", None, {}),
            ("running", "train", {"train": lines("t", 0, 4)}),
            ("succeeded", "publish", {}),
        ]
    )
    assert follow(scripted, make_client(scripted.url), running) == lines("t", 0, 4).splitlines()


def test_a_service_that_goes_away_meanwhile(scripted: ScriptedService, make_client: MakeClient) -> None:
    running = Running([("running", "train", {"train": "a\n"}), ("succeeded", "publish", {"train": "a\nb\n"})])
    scripted.on("GET", JOB, running.job)
    away = Answer(drop=True)
    scripted.on("GET", f"{JOB}/logs", running.logs, away, running.logs, away, away, running.logs)
    client = make_client(scripted.url, max_retries=0)
    assert list(client.follow_logs("adapt_1", interval_s=0.0)) == ["a", "b"]


def test_a_job_that_never_logged(scripted: ScriptedService, make_client: MakeClient) -> None:
    assert follow(scripted, make_client(scripted.url), Running([("cancelled", None, {})])) == []


def test_a_service_without_offsets_is_not_followed(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", JOB, Running([("running", "train", {})]).job)
    scripted.on("GET", f"{JOB}/logs", Answer({"id": "adapt_1", "stage": "train", "lines": ["a"]}))
    with pytest.raises(UnexpectedAnswerError, match="older"):
        list(make_client(scripted.url).follow_logs("adapt_1"))
