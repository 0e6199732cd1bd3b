"""Live parts of pages over real sockets: what changes is sent once, rendered and escaped, until the job ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from html_pages import parse
from job_files import record_of
from live_api import BODY, LiveApi, live_api

from eda_service.errors import ConflictError
from eda_service.jobstore import Status
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("ui")) as running:
        yield running


def create(live: LiveApi, **changes: Any) -> str:
    return str(httpx.post(f"{live.url}/v1/adaptations", json={**BODY, "force": True, **changes}).json()["id"])


def start(live: LiveApi, job_id: str) -> None:
    try:
        live.store.jobs.transition(job_id, Status.RUNNING, event="attempt_started", message="x")
    except ConflictError:
        assert live.store.jobs.get(job_id).status == "running"  # the dispatcher was faster


class Stream:
    """Reads one stream of a page; it must say what a test waits for in time."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(timeout=20)
        self._open = self._http.stream("GET", url, headers={"accept": "text/event-stream"})
        self._ends_at = time.monotonic() + 30
        self.latest: dict[str, str] = {}

    def __enter__(self) -> Self:
        response = self._open.__enter__()
        assert response.headers["content-type"].startswith("text/event-stream")
        self._lines = response.iter_lines()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.__exit__(None, None, None)
        self._http.close()

    def __iter__(self) -> Iterator[tuple[str, dict[str, str]]]:
        kind = ""
        for line in self._lines:  # also those that only keep the connection
            assert time.monotonic() < self._ends_at, self.latest
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield kind, json.loads(line.removeprefix("data: "))

    def wait_for(self, target: str, words: str) -> str:
        """The newest HTML for an element, once the words stand in it."""
        events = iter(self)
        while words not in self.latest.get(target, ""):
            _, found = next(events)
            self.latest[found["target"]] = found["html"]
        return self.latest[target]


def test_a_row_of_the_queue_follows_its_job(live: LiveApi) -> None:
    job_id = create(live, seed=1)
    with Stream(f"{live.url}/ui/jobs/stream") as stream:
        stream.wait_for(f"row-{job_id}", job_id)
        start(live, job_id)
        progress = {"stage": "train", "percent": 41.5, "step": 83, "total_steps": 200, "updated_at": 1}
        live.store.jobs.record_progress(job_id, progress)
        row = parse("<table>" + stream.wait_for(f"row-{job_id}", "train") + "</table>")
        assert row.one("progress").attributes["value"] == "41.5"
        stream.wait_for("counts", "running")
        newer = create(live, seed=2)
        body = parse("<table>" + stream.wait_for("rows", newer) + "</table>")
        assert body.all("tr")[0].attributes["id"] == f"row-{newer}"


def test_a_jobs_page_gets_each_event_once_and_ends_with_the_job(live: LiveApi) -> None:
    job_id = create(live, seed=3)
    after = live.store.events.newest(job_id, limit=1)[0][0].id
    start(live, job_id)
    seen: list[str] = []
    with Stream(f"{live.url}/ui/jobs/{job_id}/stream?after={after}") as stream:
        events = iter(stream)
        live.store.events.add(job_id, "note", "<b>first</b>")
        live.store.events.add(job_id, "note", "second")
        progress = {"stage": "select", "percent": 50.0, "step": 1, "total_steps": 2, "updated_at": 1}
        live.store.jobs.record_progress(job_id, progress)
        live.store.jobs.transition(
            job_id, Status.FAILED, event="job_failed", message="gone", error={"code": "x", "message": "y"}
        )
        for kind, found in events:
            if kind == "over":
                break
            if found["target"] == "events":
                assert found["how"] == "prepend"
                seen.append(" ".join(parse(found["html"]).text.split()))
        assert next(events, None) is None
    notes = [each for each in seen if " note " in each]
    assert [each.rsplit(" ", 1)[1] for each in notes] == ["<b>first</b>", "second"]
    assert len(seen) == len(set(seen))
    assert seen[-1].endswith("job_failed gone")


def test_the_loss_grows_while_training_runs(live: LiveApi) -> None:
    job_id = create(live, seed=5)
    start(live, job_id)
    live.store.jobs.record_progress(
        job_id, {"stage": "train", "percent": 1.0, "step": 1, "total_steps": 9, "updated_at": 1}
    )
    points = [point for point in record_of(Stage.TRAIN)["curve"] if point["simulated_acceptance_length"] is None]
    path = RunDir.of_job(job_id, live.home).stage_dir(Stage.TRAIN) / "curve.jsonl"
    with Stream(f"{live.url}/ui/jobs/{job_id}/stream") as stream:
        for number in (2, 4):
            path.write_text("".join(json.dumps(point) + "\n" for point in points[:number]))
            last = points[number - 1]
            html = stream.wait_for("outcome", f"to {last['loss']:.2f} at step {last['step']}")
            assert len(parse(html).one("figure").one("tbody").all("tr")) == number
        RunDir.of_job(job_id, live.home).log_path(Stage.TRAIN).write_text("x\n")
        assert parse(stream.wait_for("logs", "href")).one("a").text == "train"


def test_a_stream_that_nothing_changes_on_stays_silent(live: LiveApi) -> None:
    job_id = create(live, seed=4)
    live.store.jobs.transition(job_id, Status.CANCELLED, event="job_cancelled", message="x")
    with Stream(f"{live.url}/ui/jobs/{job_id}/stream") as stream:
        found = list(stream)
    assert [kind for kind, _ in found][-1] == "over"
    assert sum(each.get("target") == "state" for _, each in found) == 1


def test_streams_of_deployments_answer_without_replicas(live: LiveApi) -> None:
    made = httpx.post(f"{live.url}/v1/deployments", json={"name": "a", "model": "org/model"})
    assert made.status_code == 201
    with Stream(f"{live.url}/ui/deployments/stream") as stream:
        assert "pending" in stream.wait_for("row-a", "a")
    with Stream(f"{live.url}/ui/deployments/a/stream") as stream:
        stream.wait_for("served", "No replica answers")


def test_streams_of_what_is_not_there_are_refused(live: LiveApi, tmp_path: Path) -> None:
    for path in ("jobs/adapt_none", "deployments/nobody"):
        answer = httpx.get(f"{live.url}/ui/{path}/stream", headers={"accept": "text/event-stream"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
