"""Round times as scaling reads them."""

from __future__ import annotations

import time

import pytest

from api.endpoint.metrics.round_times import RoundTimes


def test_only_the_newest_rounds_count() -> None:
    times, now_s = RoundTimes(), time.perf_counter()
    assert times.mean_s() == 0.0
    times.add(now_s - 60.0, now_s - 50.0)
    assert times.mean_s() == 0.0
    times.add(now_s - 0.3, now_s - 0.2)
    times.add(now_s - 0.2, now_s)
    assert times.mean_s() == pytest.approx(0.15)
