"""Limits of API keys at the endpoint: per minute and at a time, the service's and a key's own, over real sockets."""

from __future__ import annotations

import threading

import httpx
import pytest
from fastapi.testclient import TestClient
from scripted_service import Answer, ScriptedService

from api.auth import Caller
from api.gateway.limits import Limits, RateLimitedError
from api.settings import Settings
from eda_service.jobstore import Deployment, JobStore
from eda_service.raycluster.serve_plan import group_key

PATH = "/v1/completions"
TARGET = {"model": "org/base", "adapter": None, "revision": None, "dtype": "auto"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def caller(key: str | None = "k", **limits: int) -> Caller:
    return Caller("ada", frozenset({"infer"}), key, **limits)


def test_the_minute_slides_and_the_wait_is_said(settings: Settings) -> None:
    clock = Clock()
    limits = Limits(settings.model_copy(update={"requests_per_minute": 2}), clock=clock)
    limits.admit(caller())()
    clock.now += 20
    limits.admit(caller())()
    with pytest.raises(RateLimitedError, match="2 requests in the last minute and the limit is 2") as caught:
        limits.admit(caller())
    assert caught.value.retry_after_s == 40
    limits.admit(caller("other"))()
    clock.now += 40
    limits.admit(caller())()
    with pytest.raises(RateLimitedError):
        limits.admit(caller())


def test_a_keys_own_limit_goes_before_and_without_keys_there_is_none(settings: Settings) -> None:
    limits = Limits(settings.model_copy(update={"requests_per_minute": 1, "concurrent_requests": 1}))
    held = [limits.admit(caller(requests_per_minute=3, concurrent_requests=3)) for _ in range(3)]
    with pytest.raises(RateLimitedError, match="3 requests of this key are open and the limit is 3"):
        limits.admit(caller(requests_per_minute=9, concurrent_requests=3))
    for release in (*held, *held):  # releasing twice frees one place
        release()
    for _ in range(5):
        limits.admit(caller(None))


def test_a_smaller_limit_than_what_was_begun_waits_for_enough_of_it(settings: Settings) -> None:
    clock = Clock()
    limits = Limits(settings, clock=clock)
    for _ in range(3):
        limits.admit(caller(requests_per_minute=3))()
        clock.now += 10
    with pytest.raises(RateLimitedError) as caught:
        limits.admit(caller(requests_per_minute=1))
    assert caught.value.retry_after_s == 50


@pytest.fixture
def serve_port(proxy: ScriptedService) -> int:
    return httpx.URL(proxy.url).port or 0


def deploy(client: TestClient, **limits: int) -> dict[str, str]:
    """Deploy `a` for ada, and return the headers of her key."""
    store: JobStore = client.app.state.services.store  # type: ignore[attr-defined]
    made = Deployment(name="a", owner="ada", target=TARGET, base_draft=None, pack=None)
    store.deployments.put(made, made_by="ada", reason="x")
    return {"authorization": f"Bearer {store.keys.create('ada', 'k', ['infer'], **limits)[1]}"}  # type: ignore[arg-type]


def ask(client: TestClient, headers: dict[str, str]) -> httpx.Response:
    answer: httpx.Response = client.post(PATH, json={"model": "a", "prompt": "x"}, headers=headers)
    return answer


def test_too_many_a_minute_are_refused_before_they_reach_a_replica(client: TestClient, proxy: ScriptedService) -> None:
    headers = deploy(client, requests_per_minute=2)
    route = f"/groups/{group_key(TARGET)}{PATH}"
    proxy.on("POST", route, Answer({}))
    assert [ask(client, headers).status_code for _ in range(2)] == [200, 200]
    refused = ask(client, headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert len(proxy.seen("POST", route)) == 2


@pytest.mark.parametrize(
    "answer", [Answer({}), Answer(drop=True), Answer({}, status=429)], ids=["ok", "cut", "refused"]
)
def test_an_answer_that_ends_in_any_way_gives_its_place_back(
    client: TestClient, proxy: ScriptedService, answer: Answer
) -> None:
    headers = deploy(client, concurrent_requests=1)
    proxy.on("POST", f"/groups/{group_key(TARGET)}{PATH}", answer)
    codes = {ask(client, headers).json().get("error", {}).get("code") for _ in range(3)}
    assert "rate_limit_exceeded" not in codes


def test_as_many_at_a_time_as_the_limit(client: TestClient, proxy: ScriptedService) -> None:
    headers = deploy(client, concurrent_requests=2)
    slow = Answer(headers={"content-type": "application/json"}, chunks=(b"{", 3.0, b"}"))
    proxy.on("POST", f"/groups/{group_key(TARGET)}{PATH}", slow)
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(ask(client, headers).status_code)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(codes) == [200, 200, 429, 429, 429]
