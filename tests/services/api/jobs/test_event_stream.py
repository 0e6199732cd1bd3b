"""Events as server-sent events, over real HTTP: order, resume, the end with the job, and errors before the stream."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_api import BODY, LiveApi, live_api

from eda_service.jobstore import Status

STREAM = {"accept": "text/event-stream"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LiveApi]:
    with live_api(tmp_path) as running:
        yield running


def create(api: LiveApi) -> str:
    return str(httpx.post(f"{api.url}/v1/adaptations", json={**BODY, "force": True}).json()["id"])


def messages(text: str) -> list[dict[str, Any]]:
    """Parsed by the rules of the standard: fields by line, messages by empty line, comments left out."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            found.append({**fields, "data": json.loads(fields["data"])})
    return found


def run_to_the_end(api: LiveApi, job_id: str, num_events: int, *, pause_s: float = 0.0) -> None:
    """What a dispatcher does with a job, told in events."""
    job = api.store.leases.claim(max_running=8)
    assert job is not None
    assert job.id == job_id
    for n in range(num_events):
        api.store.events.add(job_id, "step", f"step {n}", token=job.lease_token)
        time.sleep(pause_s)
    api.store.jobs.transition(job_id, Status.SUCCEEDED, event="job_succeeded", message="done", token=job.lease_token)


def test_a_stream_has_every_event_once_in_order_and_ends_with_the_job(api: LiveApi) -> None:
    job_id = create(api)
    worker = threading.Thread(target=run_to_the_end, args=(api, job_id, 20), kwargs={"pause_s": 0.02})
    worker.start()
    with httpx.stream("GET", f"{api.url}/v1/adaptations/{job_id}/events", headers=STREAM, timeout=30) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        text = "".join(response.iter_text())
    worker.join()
    found = messages(text)
    listed = httpx.get(f"{api.url}/v1/adaptations/{job_id}/events").json()["data"]
    assert [each["data"] for each in found] == listed
    assert [each["id"] for each in found] == [each["id"] for each in listed]
    assert [each["event"] for each in found] == ["job_created", "attempt_started", *["step"] * 20, "job_succeeded"]


def test_a_broken_stream_goes_on_where_it_was(api: LiveApi) -> None:
    job_id = create(api)
    run_to_the_end(api, job_id, 5)
    url = f"{api.url}/v1/adaptations/{job_id}/events"
    whole = messages(httpx.get(url, headers=STREAM, timeout=30).text)
    rest = messages(httpx.get(url, headers={**STREAM, "last-event-id": whole[2]["id"]}, timeout=30).text)
    assert rest == whole[3:]
    assert httpx.get(url, headers={**STREAM, "last-event-id": whole[-1]["id"]}, timeout=30).text == ""


def test_more_events_than_a_page_come_all(api: LiveApi) -> None:
    job_id = create(api)
    run_to_the_end(api, job_id, 230)
    found = messages(httpx.get(f"{api.url}/v1/adaptations/{job_id}/events", headers=STREAM, timeout=30).text)
    assert len(found) == 233


@pytest.mark.parametrize(("job", "headers", "status"), [("adapt_none", {}, 404), (None, {"last-event-id": "5"}, 400)])
def test_what_cannot_be_streamed_is_an_error_and_no_stream(
    api: LiveApi, job: str | None, headers: dict[str, str], status: int
) -> None:
    job_id = job or create(api)
    response = httpx.get(f"{api.url}/v1/adaptations/{job_id}/events", headers={**STREAM, **headers}, timeout=30)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_many_quiet_streams_ask_for_nothing(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a job's events its streams cost a comment now and then; an event reaches all of them."""
    monkeypatch.setattr("api.jobs.feed._KEEP_ALIVE_S", 0.1)
    monkeypatch.setattr("api.jobs.feed._LOOK_AFTER", 10_000)
    quiet, busy = create(api), create(api)
    asked: list[str] = []
    real = api.store.events.of

    def counted(job_id: str, **options: Any) -> Any:
        asked.append(job_id)
        return real(job_id, **options)

    monkeypatch.setattr(api.store.events, "of", counted)
    texts: list[str] = []

    def listen() -> None:
        texts.append(httpx.get(f"{api.url}/v1/adaptations/{quiet}/events", headers=STREAM, timeout=60).text)

    threads = [threading.Thread(target=listen) for _ in range(20)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while asked.count(quiet) < len(threads):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)
    before = asked.count(quiet)
    for n in range(10):
        api.store.events.add(busy, "step", f"step {n}")
        time.sleep(0.1)
    assert asked.count(quiet) == before
    api.store.jobs.transition(quiet, Status.CANCELLED, event="job_cancelled", message="no more")
    for thread in threads:
        thread.join()
    assert len(texts) == len(threads)
    assert all("job_cancelled" in text and text.count(":") > 5 for text in texts)
