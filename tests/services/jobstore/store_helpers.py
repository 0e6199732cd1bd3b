"""What the store's tests share: a clock that moves when told to, configs, and threads that start together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from eda_service.config.job import AdaptConfig
from eda_service.jobstore.vault import FernetVault, new_key

VAULT = FernetVault([new_key()])


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def config(model: str = "org/model", **changes: object) -> AdaptConfig:
    return AdaptConfig.model_validate({"target": {"model": model}, **changes})


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run every call in a thread of its own, all let go together; returns the results, or raises the first error."""
    barrier = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []

    def run(place: int) -> None:
        barrier.wait()
        try:
            results[place] = calls[place]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]
    return results
