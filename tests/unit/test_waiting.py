"""How tests wait: as long as something moves, with a message that says what was seen."""

from __future__ import annotations

import itertools
import os

import pytest
from waiting import wait_for, work_of


def test_a_condition_that_holds_is_not_waited_for() -> None:
    assert wait_for(lambda: "there", what="nothing", stall_s=0.0) == "there"


def test_as_long_as_something_moves_no_stall_ends_it() -> None:
    looks = itertools.count()
    assert wait_for(lambda: next(looks) > 20, what="x", progress=lambda: next(looks), stall_s=0.05, interval_s=0.02)


def test_without_progress_it_ends_and_says_what_was_seen_last() -> None:
    with pytest.raises(AssertionError, match=r"two replicas: not after \d+ s, the last 0 s without progress.*'one'"):
        wait_for(lambda: False, what="two replicas", progress=lambda: "one", stall_s=0.1, interval_s=0.02)


def test_without_a_progress_the_clock_decides() -> None:
    with pytest.raises(AssertionError, match="without progress"):
        wait_for(lambda: False, what="x", stall_s=0.1, interval_s=0.02)


def test_progress_without_end_has_an_end() -> None:
    steps = itertools.count()
    with pytest.raises(AssertionError, match="though there was progress"):
        wait_for(lambda: False, what="x", progress=lambda: next(steps), longest_s=0.1, interval_s=0.02)


def test_work_of_a_process_that_is_gone_is_nothing() -> None:
    assert work_of(os.getpid())[0] >= 1
    assert work_of(2**22 + 1) == (0, 0)
