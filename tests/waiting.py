"""Waiting in tests: as long as something moves, and not by the clock alone.

A machine that is busy with other work makes everything slow and nothing wrong. What hangs is told from what is slow by
a value that changes while there is progress: a job's step, the CPU seconds of its workers, the size of a file.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import psutil  # type: ignore[import-untyped]

STALL_S = 180.0
LONGEST_S = 1500.0
TEST_TIMEOUT_S = 3600.0  # for pytest-timeout: above what waits give up at, so that theirs is the message one reads
ResultT = TypeVar("ResultT")


class Stall:
    """Says when waiting is over.

    Args:
        what: What is waited for, for the message.
        progress: A value that changes while there is progress; None: the clock alone decides, after `stall_s`.
        stall_s: Longest time without a change.
        longest_s: Longest time of all, with progress or without.
    """

    def __init__(
        self,
        what: str,
        progress: Callable[[], object] | None = None,
        *,
        stall_s: float = STALL_S,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._what, self._progress, self._stall_s, self._longest_s = what, progress, stall_s, longest_s
        self._began = self._changed = time.monotonic()
        self._last: object = None

    def check(self) -> None:
        """Look again.

        Raises:
            AssertionError: Nothing has changed for too long.
        """
        now = time.monotonic()
        value = None if self._progress is None else self._progress()
        if value != self._last:
            self._last, self._changed = value, now
        waited_s = now - self._began
        if now - self._changed > self._stall_s:
            raise AssertionError(
                f"{self._what}: not after {waited_s:.0f} s, the last {self._stall_s:.0f} s without progress; "
                f"seen last: {value!r}"
            )
        if waited_s > self._longest_s:
            raise AssertionError(f"{self._what}: not after {waited_s:.0f} s, though there was progress: {value!r}")


def wait_for(
    condition: Callable[[], ResultT],
    *,
    what: str,
    progress: Callable[[], object] | None = None,
    stall_s: float = STALL_S,
    longest_s: float = LONGEST_S,
    interval_s: float = 0.2,
) -> ResultT:
    """The condition's value, once it is true.

    Args:
        condition: Asked again and again.
        what: What is waited for, for the message.
        progress: A value that changes while there is progress; None: the clock alone decides, after `stall_s`.
        stall_s: Longest time without a change.
        longest_s: Longest time of all.
        interval_s: Time between two looks.

    Raises:
        AssertionError: It has not become true; the message says what was seen last.
    """
    stall = Stall(what, progress, stall_s=stall_s, longest_s=longest_s)
    while not (value := condition()):
        stall.check()
        time.sleep(interval_s)
    return value


def work_of(pid: int) -> tuple[int, int]:
    """What changes while a process starts: how many it has started, and the CPU time that all of them take."""
    used_s, num_started = 0.0, 0
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                used_s += process.cpu_times().user
                num_started += 1
    return num_started, int(used_s) // 5
