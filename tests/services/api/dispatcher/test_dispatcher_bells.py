"""The dispatcher's threads: each hears every call, however long the others' passes take and how rare passes are."""

from __future__ import annotations

import threading
import time

import pytest

from api.dispatcher.dispatcher import Dispatcher
from api.dispatcher.webhooks import Webhooks
from api.settings import Settings
from eda_service.jobstore import JobStore


class Passes:
    """Passes that end when they are told to."""

    def __init__(self) -> None:
        self.began, self.ends = threading.Semaphore(0), threading.Semaphore(0)

    def run_once(self) -> None:
        self.began.release()
        assert self.ends.acquire(timeout=60)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    """Those of webhooks."""
    made = Passes()
    monkeypatch.setattr(Webhooks, "run_once", made.run_once)
    return made


def wait_passed(dispatcher: Dispatcher, after: float) -> None:
    deadline = time.monotonic() + 30
    while dispatcher.last_pass_at <= after:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_call_during_a_pass_is_heard_after_it_by_that_thread_too(settings: Settings, passes: Passes) -> None:
    store = JobStore(settings.store_url)
    dispatcher = Dispatcher(store, settings.model_copy(update={"dispatch_interval_s": 60.0}))
    began_at = dispatcher.last_pass_at
    dispatcher.start()
    try:
        assert passes.began.acquire(timeout=30)
        wait_passed(dispatcher, began_at)
        time.sleep(0.2)  # the thread of jobs waits for its bell by now
        before = dispatcher.last_pass_at
        dispatcher.wake()
        wait_passed(dispatcher, before)  # it has woken, and webhooks are still in their first pass
        time.sleep(0.2)
        passes.ends.release()
        assert passes.began.acquire(timeout=30), "the call was lost"
    finally:
        ending = threading.Thread(target=dispatcher.stop)
        stopped_at = time.monotonic()
        ending.start()
        time.sleep(0.2)
        passes.ends.release()
        ending.join(60)
        store.close()
    assert time.monotonic() - stopped_at < 10, "the end was not heard"
