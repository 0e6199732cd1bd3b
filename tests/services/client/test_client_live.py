"""The clients against the real application: what the service says is what they return."""

from __future__ import annotations

import threading
import time
import uuid
from typing import Any

import pytest
from both_clients import MakeClient
from job_files import finish_job, keep_samples
from live_api import BODY, LiveApi
from lossy_proxy import lossy_proxy

from eda_service.client import ApiError
from eda_service.jobstore import Status
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir


def fresh(**changes: Any) -> dict[str, Any]:
    """A body whose jobs are told from every other test's by their metadata."""
    return {**BODY, "force": True, "metadata": {"test": uuid.uuid4().hex}, **changes}


def test_create_get_cancel_retry_and_events(live: LiveApi, make_client: MakeClient) -> None:
    client = make_client(live.url)
    job = client.create(fresh(priority=70))
    assert (job.status, job.model, job.priority, job.is_terminal) == ("queued", "org/model", 70, False)
    assert client.get(job.id) == job
    assert client.cancel(job.id).is_terminal
    assert client.retry(job.id).status == "queued"
    events = client.events(job.id)
    assert [event.type for event in events] == ["job_created", "job_cancelled", "job_retried"]
    assert client.events(job.id, after=events[0].id) == events[1:]


def test_events_of_many_pages(live: LiveApi, make_client: MakeClient) -> None:
    client = make_client(live.url)
    job = client.create(fresh())
    for number in range(120):
        live.store.events.add(job.id, "note", str(number))
    assert [event.message for event in client.events(job.id)][1:] == [str(number) for number in range(120)]


def test_pages(live: LiveApi, make_client: MakeClient) -> None:
    client = make_client(live.url)
    labels = {"test": uuid.uuid4().hex}
    ids = [client.create(fresh(metadata=labels, seed=seed)).id for seed in range(5)]
    page = client.page(limit=2, metadata=labels)
    assert [job.id for job in page] == ids[:2:-1]
    assert (len(page), page[0].id, page.has_more, page.first_id, page.last_id) == (2, ids[4], True, ids[4], ids[3])
    rest = client.page(limit=5, after=page.last_id, metadata=labels)
    assert ([job.id for job in rest], rest.has_more) == (ids[2::-1], False)
    assert [job.id for job in client.iterate(metadata=labels, page_size=2)] == ids[::-1]
    client.cancel(ids[1])
    assert [job.id for job in client.page(status="cancelled", metadata=labels)] == [ids[1]]


def test_logs_report_health_models(live: LiveApi, make_client: MakeClient) -> None:
    client = make_client(live.url)
    job = client.create(fresh())
    run = RunDir.of_job(job.id, live.home)
    run.log_path(Stage.TRAIN).write_text("one\ntwo\nthree\n")
    run.log_path(Stage.GENERATE).write_text("earlier\n")
    assert client.logs(job.id, tail=2) == ["two", "three"]
    assert client.logs(job.id, stage="generate") == ["earlier"]
    with pytest.raises(ApiError) as caught:
        client.report(job.id)
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    finish_job(live.store, live.home, live.store.jobs.get(job.id))
    assert client.report_page(job.id).startswith("<!doctype html>")
    assert client.report(job.id)["stage"] == "evaluate"
    keep_samples(RunDir.of_job(job.id, live.home))
    first = client.samples(job.id, kept=False, limit=2)
    assert ([each.kept for each in first.samples], first.has_more, first.num_kept) == ([False, False], True, 160)
    second = client.samples(job.id, kept=False, after=first.last_id, limit=1)
    assert (second.samples[0].sample_value or 0.0) <= (first.samples[-1].sample_value or 0.0)
    assert client.health()["ray_reachable"] is False
    assert client.models() == []


def test_a_refusal_keeps_what_the_service_said(live: LiveApi, make_client: MakeClient) -> None:
    with pytest.raises(ApiError, match="no-such") as caught:
        make_client(live.url).create(fresh(base_draft="no-such@1"))
    error = caught.value
    assert (error.status, error.code, error.param, error.retryable) == (400, "base_draft_missing", "base_draft", False)
    assert error.request_id is not None


def test_the_callers_idempotency_key_replays(live: LiveApi, make_client: MakeClient) -> None:
    client, body, key = make_client(live.url), fresh(), uuid.uuid4().hex
    assert client.create(body, idempotency_key=key).id == client.create(body, idempotency_key=key).id
    assert client.create(body).id != client.create(body).id
    with pytest.raises(ApiError) as caught:
        client.create({**body, "seed": 9}, idempotency_key=key)
    assert caught.value.status == 409


@pytest.mark.parametrize("num_lost", [1, 2])
def test_a_create_whose_answer_got_lost_makes_one_job(live: LiveApi, make_client: MakeClient, num_lost: int) -> None:
    body = fresh()
    with lossy_proxy(live.url, num_lost) as (url, lost):
        job = make_client(url).create(body)
    assert len(lost) == num_lost
    assert b" 201 " in lost[0].splitlines()[0]  # the service had made the job before its answer got lost
    assert [each.id for each in make_client(live.url).page(metadata=body["metadata"])] == [job.id]


def test_watch_and_wait_end_with_the_job(live: LiveApi, make_client: MakeClient) -> None:
    client = make_client(live.url)
    job = client.create(fresh())

    def end() -> None:
        time.sleep(0.3)
        live.store.jobs.transition(job.id, Status.FAILED, event="job_failed", message="by the test")

    thread = threading.Thread(target=end)
    thread.start()
    seen = [each.status for each in client.watch(job.id, interval_s=0.02)]
    thread.join()
    assert (seen[0], seen[-1]) == ("queued", "failed")
    assert seen.count("failed") == 1
    assert client.wait(job.id).status == "failed"


def test_wait_gives_up_in_time(live: LiveApi, make_client: MakeClient) -> None:
    client = make_client(live.url)
    job = client.create(fresh())
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="still queued after 0 s"):
        client.wait(job.id, timeout_s=0.1, interval_s=0.02)
    assert time.monotonic() - began < 5
