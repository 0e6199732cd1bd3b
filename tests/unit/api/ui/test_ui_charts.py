"""Where charts put things: against numpy, and against places worked out by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from api.ui.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, histogram, line_chart, thin, ticks

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(NUMBERS, NUMBERS)
def test_ticks_cover_the_range_in_few_round_steps(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks(low, high)
    assert 2 <= len(found) <= 13
    step = np.diff(found)
    assert found[0] <= low + 1e-8 * step[0] + 1e-9
    assert found[-1] >= high - 1e-8 * step[0] - 1e-9
    assert step == pytest.approx(step[0], rel=1e-6, abs=1e-9)
    assert f"{step[0]:.6e}"[0] in "125"


def test_ticks_by_hand() -> None:
    assert ticks(0, 1) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 488) == [0, 100, 200, 300, 400, 500]
    assert ticks(3, 3) == [2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6]


def test_a_line_goes_from_corner_to_corner() -> None:
    chart = line_chart(
        "t",
        "s",
        x_label="x",
        y_label="y",
        series=[Series("a", "s-base-0", [(1, 0.0), (2, 0.5), (3, 1.0)])],
        y_range=(0, 1),
    )
    (curve,) = chart.curves
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    assert curve.points == ((LEFT, bottom), ((LEFT + right) / 2, (TOP + bottom) / 2), (right, TOP))
    assert [float(each) for each in re.findall(r"[\d.]+", curve.path)] == [each for at in curve.points for each in at]
    assert [tick.label for tick in chart.x_ticks] == ["1", "2", "3"]
    assert chart.rows == (("1", "0"), ("2", "0.5"), ("3", "1"))


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    points = [(float(x), float(x % 7)) for x in range(5000)]
    kept = thin(points, 200)
    assert (len(kept), kept[0], kept[-1]) == (200, points[0], points[-1])
    chart = line_chart("t", "s", x_label="x", y_label="y", series=[Series("a", "s-base-0", points)])
    assert len(chart.rows) == 40
    assert chart.curves[0].path.count(" L") == 199


@given(st.lists(st.floats(-1e4, 1e4, allow_nan=False, width=32), min_size=2, max_size=60, unique=True))
def test_a_histogram_counts_as_numpy_does(values: list[float]) -> None:
    low, high = min(values), max(values)
    assume(high - low > 1e-3)
    places = [(value - low) / (high - low) * 30 for value in values if low < value < high]
    chart = histogram("t", "s", x_label="x", y_label="y", values=values, cut=None, cut_label="")
    counts = np.histogram(values, bins=30, range=(low, high))[0]
    found = [int(row[1]) for row in chart.rows]
    assert sum(found) == len(values)
    if all(abs(place - round(place)) > 1e-6 for place in places):  # on an edge, rounding decides
        assert found == [int(count) for count in counts if count]


def test_bars_look_different_from_the_cut_on() -> None:
    values = [float(value) for value in range(30)]
    chart = histogram("t", "s", x_label="x", y_label="y", values=values, cut=15.0, cut_label="kept from 15")
    looks = [box.style for box in chart.boxes]
    assert looks == ["b-dropped"] * looks.count("b-dropped") + ["b-kept"] * looks.count("b-kept")
    assert chart.cut is not None
    edge = max(box.x for box in chart.boxes if box.style == "b-dropped")
    assert edge < chart.cut.at < edge + 30
