"""What the clients do when the service fails: repeat what may be repeated, wait as long as asked, say what happened."""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest
from both_clients import MakeClient
from scripted_service import Answer, ScriptedService, refusal

from eda_service.client import ApiError, ServiceUnreachableError, UnexpectedAnswerError
from eda_service.errors import InputError
from eda_service.raycluster.processes import free_port

ROOT = "/v1/adaptations"
JOB: dict[str, Any] = {
    "id": "adapt_1",
    "status": "queued",
    "model": "org/model",
    "base_draft": "small@1",
    "served_name": "model",
    "created_at": 1,
    "a_field_of_tomorrow": [],
}
ESTIMATE = {
    "object": "adaptation.estimate",
    "disk_bytes": 2_000_000_000,
    "free_disk_bytes": 1,
    "num_samples": 320,
    "num_train_steps": 400,
    "trainable_parameters": 2_655_360,
    "seconds": {"generate": 60.0, "train": 90.5, "evaluate": 30.0, "total": 180.5},
    "fits": False,
    "warnings": ["no space"],
}


@pytest.mark.parametrize(
    "failure",
    [
        Answer(drop=True),
        Answer(JOB, cut=True),
        refusal(429, "overloaded"),
        refusal(503, "unschedulable"),
        Answer(status=502, body=b"<html>bad gateway</html>"),
        Answer(status=504, body=b""),
    ],
    ids=["dropped", "cut", "429", "503", "502", "504"],
)
def test_what_passes_is_repeated(scripted: ScriptedService, make_client: MakeClient, failure: Answer) -> None:
    scripted.on("GET", f"{ROOT}/adapt_1", failure, failure, Answer(JOB))
    scripted.on("POST", ROOT, failure, failure, Answer(JOB, status=201))
    client = make_client(scripted.url)
    assert client.get("adapt_1").id == "adapt_1"
    assert client.create({"model": "org/model"}).id == "adapt_1"
    keys = [request.headers["idempotency-key"] for request in scripted.seen("POST", ROOT)]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert all(request.body == {"model": "org/model"} for request in scripted.seen("POST", ROOT))


@pytest.mark.parametrize(
    "failure",
    [
        refusal(500, "internal"),
        refusal(503, "unschedulable", x_should_retry="false"),
        refusal(503, "unschedulable", retry_after="3600"),
        refusal(409, "conflict"),
        refusal(401, "invalid_api_key"),
    ],
    ids=["500", "should-not-retry", "in an hour", "409", "401"],
)
def test_what_does_not_pass_is_not_repeated(
    scripted: ScriptedService, make_client: MakeClient, failure: Answer
) -> None:
    scripted.on("GET", f"{ROOT}/adapt_1", failure)
    with pytest.raises(ApiError) as caught:
        make_client(scripted.url).get("adapt_1")
    error = caught.value
    assert (error.status, error.code) == (failure.status, failure.json["error"]["code"])
    assert (error.message, error.request_id) == (failure.json["error"]["message"], "req_scripted")
    assert error.retry_after_s == (3600.0 if "retry-after" in failure.headers else None)
    assert len(scripted.requests) == 1


@pytest.mark.parametrize("call", ["cancel", "retry", "set_priority"])
def test_a_change_without_a_key_is_sent_once(scripted: ScriptedService, make_client: MakeClient, call: str) -> None:
    path = f"{ROOT}/adapt_1" + ("" if call == "set_priority" else f"/{call}")
    scripted.on("POST", path, refusal(503, "unschedulable"), Answer(drop=True))
    client = make_client(scripted.url)
    arguments = ("adapt_1", 80) if call == "set_priority" else ("adapt_1",)
    with pytest.raises(ApiError):
        getattr(client, call)(*arguments)
    with pytest.raises(ServiceUnreachableError):
        getattr(client, call)(*arguments)
    assert len(scripted.requests) == 2


@pytest.mark.parametrize("max_retries", [0, 1, 4])
def test_max_retries(scripted: ScriptedService, make_client: MakeClient, max_retries: int) -> None:
    scripted.on("GET", "/health", refusal(503, "unschedulable"))
    with pytest.raises(ApiError):
        make_client(scripted.url, max_retries=max_retries).health()
    assert len(scripted.requests) == 1 + max_retries


def test_retry_after_is_waited_for(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", "/health", refusal(503, "unschedulable", retry_after="1"), Answer({"status": "ok"}))
    began = time.monotonic()
    assert make_client(scripted.url).health() == {"status": "ok"}
    assert 1.0 <= time.monotonic() - began < 5.0


def test_nobody_there(make_client: MakeClient) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceUnreachableError, match=f"nothing answers at {url}.*eda up"):
        make_client(url).get("adapt_1")


def test_no_answer_in_time(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", "/health", Answer(chunks=(30.0,), headers={"content-type": "application/json"}))
    with pytest.raises(ServiceUnreachableError, match="did not answer in time"):
        make_client(scripted.url, timeout_s=0.1, max_retries=1).health()
    assert len(scripted.requests) == 2


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (Answer(body=b"<html>a router's login page</html>"), "JSONDecodeError"),
        (Answer({**JOB, "created_at": "yesterday"}), "created_at"),
        (Answer([]), "the value is a list; it must be an object"),
    ],
    ids=["html", "wrong type", "list"],
)
def test_an_answer_of_another_shape(
    scripted: ScriptedService, make_client: MakeClient, answer: Answer, word: str
) -> None:
    scripted.on("GET", f"{ROOT}/adapt_1", answer)
    with pytest.raises(UnexpectedAnswerError, match=word) as caught:
        make_client(scripted.url).get("adapt_1")
    assert "yesterday" not in caught.value.message
    assert len(scripted.requests) == 1


def test_a_page_of_another_shape(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", ROOT, Answer({"items": []}))
    with pytest.raises(UnexpectedAnswerError, match="KeyError"):
        make_client(scripted.url).page()


def test_watch_waits_for_a_service_that_restarts(scripted: ScriptedService, make_client: MakeClient) -> None:
    away = (Answer(drop=True), refusal(503, "unschedulable"), Answer(drop=True), Answer(drop=True))
    scripted.on("GET", f"{ROOT}/adapt_1", Answer(JOB), *away, Answer({**JOB, "status": "succeeded"}))
    client = make_client(scripted.url, max_retries=0)
    assert [job.status for job in client.watch("adapt_1", interval_s=0.0)] == ["queued", "succeeded"]


def test_watch_does_not_wait_for_ever(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", f"{ROOT}/adapt_1", Answer(JOB), Answer(drop=True))
    jobs = make_client(scripted.url, max_retries=0, patience_s=0.2).watch("adapt_1", interval_s=0.0)
    assert next(jobs).status == "queued"
    with pytest.raises(ServiceUnreachableError):
        next(jobs)


def test_watch_stops_at_a_refusal(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("GET", f"{ROOT}/adapt_1", Answer(JOB), refusal(401, "invalid_api_key"))
    with pytest.raises(ApiError, match="invalid_api_key"):
        list(make_client(scripted.url).watch("adapt_1", interval_s=0.0))


def test_estimate_and_priority(scripted: ScriptedService, make_client: MakeClient) -> None:
    scripted.on("POST", f"{ROOT}/estimate", Answer(drop=True), Answer(ESTIMATE))
    scripted.on("POST", f"{ROOT}/adapt_1", Answer({**JOB, "priority": 80}))
    client = make_client(scripted.url)
    estimate = client.estimate({"model": "org/model"})
    assert (estimate.fits, estimate.seconds["train"], estimate.warnings) == (False, 90.5, ("no space",))
    assert client.set_priority("adapt_1", 80).priority == 80
    assert [request.body for request in scripted.requests] == [{"model": "org/model"}] * 2 + [{"priority": 80}]


def test_keys_go_into_the_header(
    scripted: ScriptedService, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.on("GET", "/health", Answer({}))
    make_client(scripted.url).health()
    monkeypatch.setenv("EDA_API_KEY", "eda_1_environment")
    make_client(scripted.url).health()
    make_client(scripted.url, api_key="eda_2_argument").health()
    make_client(scripted.url, api_key="").health()
    sent = [request.headers.get("authorization") for request in scripted.requests]
    assert sent == [None, "Bearer eda_1_environment", "Bearer eda_2_argument", None]


def test_arguments_that_cannot_be_sent(scripted: ScriptedService, make_client: MakeClient) -> None:
    client = make_client(scripted.url)
    for job_id in ("", "../health", "a/b", "a b", "a" * 65):
        with pytest.raises(InputError, match="no job id"):
            client.get(job_id)
    with pytest.raises(InputError, match="estimate"):
        client.create({"model": "org/model", "dry_run": True})
    with pytest.raises(InputError, match="printable"):
        client.create({}, idempotency_key="two words")
    for url in ("127.0.0.1:8700", "ftp://host", "http://", "", "http://[::1"):
        with pytest.raises(InputError, match="no service URL"):
            make_client(url)
    with pytest.raises(InputError) as caught:
        make_client(scripted.url, api_key="eda_secret\nx: y")
    assert "secret" not in caught.value.message
    assert scripted.requests == []


def test_an_error_survives_pickling() -> None:
    error = ApiError("m", param="p", status=429, code="c", request_id="r", retryable=True, retry_after_s=2.0)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ApiError
    assert (again.message, vars(again)) == ("m", vars(error))
