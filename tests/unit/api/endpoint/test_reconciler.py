"""Configs made one after another beside the requests; of those that wait, the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any

import pytest

from api.endpoint.reconciler import Reconciler
from eda_service.raycluster.serve_plan import ServedModel


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


def models(name: str) -> list[ServedModel]:
    return [ServedModel(name=name, target={"model": name}, base_draft=None, pack=None)]


class Slow:
    """Makes a config when it is let; one named `bad` fails."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.made: list[str] = []
        self.may_end = asyncio.Semaphore(0)
        self.reconciler = Reconciler(self._make, lambda: self.made.append(self.begun[-1]))

    async def _make(self, wanted: Sequence[ServedModel]) -> None:
        self.begun.append(wanted[0].name)
        await self.may_end.acquire()
        if wanted[0].name == "bad":
            raise ValueError("no such weights")


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@on_a_loop
async def test_soon_returns_before_it_is_made_and_the_newest_of_those_that_wait_is_next() -> None:
    slow = Slow()
    for name in ("one", "two", "three"):
        slow.reconciler.soon(models(name))
        await settled()
    assert (slow.begun, slow.made) == (["one"], [])
    slow.may_end.release()
    await settled()
    assert (slow.begun, slow.made) == (["one", "three"], ["one"])
    slow.may_end.release()
    await settled()
    assert slow.made == ["one", "three"]


@on_a_loop
async def test_now_waits_for_what_is_being_made_and_for_its_own() -> None:
    slow = Slow()
    slow.reconciler.soon(models("one"))
    await settled()
    waited = asyncio.create_task(slow.reconciler.now(models("two")))
    await settled()
    assert slow.begun == ["one"]
    slow.may_end.release()
    await settled()
    assert not waited.done()
    slow.may_end.release()
    await asyncio.wait_for(waited, 10)
    assert slow.made == ["one", "two"]


@on_a_loop
async def test_what_cannot_be_made_is_said_and_what_comes_after_it_is_made() -> None:
    slow = Slow()
    slow.may_end.release()
    slow.may_end.release()
    slow.reconciler.soon(models("bad"))
    await settled()
    assert slow.reconciler.failure == "ValueError: no such weights"
    slow.reconciler.soon(models("good"))
    await settled()
    assert slow.made == ["good"]


@on_a_loop
async def test_the_first_config_s_error_is_the_caller_s() -> None:
    slow = Slow()
    slow.may_end.release()
    with pytest.raises(ValueError, match="no such weights"):
        await slow.reconciler.now(models("bad"))
    assert slow.reconciler.failure is None


@on_a_loop
async def test_stop_leaves_nothing_running() -> None:
    slow = Slow()
    await slow.reconciler.stop()
    slow.reconciler.soon(models("one"))
    await settled()
    await slow.reconciler.stop()
    slow.may_end.release()
    await settled()
    assert (slow.begun, slow.made) == (["one"], [])
