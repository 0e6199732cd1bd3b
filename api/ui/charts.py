"""Charts as values: the place of each line, box and label. `templates/_charts.html` draws them with a table beside.

Coordinates are SVG units of a box WIDTH by HEIGHT, y downwards. No plotting library is used, because pages are made per
request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 24, 44
_NUM_TICKS = 5
_MOST_POINTS = 200
_MOST_ROWS = 40

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line of a chart, before it is drawn.

    Attributes:
        label: Label in the legend and the table.
        style: Name of its style in the style sheet, `s-...`.
    """

    label: str
    style: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class DrawnCurve:
    """A drawn line: an SVG path and its points."""

    label: str
    style: str
    path: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Box:
    """A drawn bar."""

    x: float
    y: float
    width: float
    height: float
    style: str


@dataclass(frozen=True)
class Chart:
    """A chart, ready to be drawn.

    Attributes:
        summary: Content of the chart, in words.
        cut: A vertical line with its label, if any.
        header: Header of the table with the same numbers.
        rows: Rows of that table.
    """

    title: str
    summary: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    curves: tuple[DrawnCurve, ...] = ()
    boxes: tuple[Box, ...] = ()
    cut: Tick | None = None
    width: ClassVar[int] = WIDTH
    height: ClassVar[int] = HEIGHT
    left: ClassVar[int] = LEFT
    right: ClassVar[int] = WIDTH - RIGHT
    top: ClassVar[int] = TOP
    bottom: ClassVar[int] = HEIGHT - BOTTOM


def line_chart(
    title: str,
    summary: str,
    *,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    y_range: tuple[float, float] | None = None,
    whole_x: bool = True,
    x_name: Callable[[float], str] | None = None,
) -> Chart:
    """Draw lines over one pair of axes.

    Args:
        title: Heading of the chart.
        summary: Content of the chart, in words.
        x_label: Label of the horizontal axis, and of the table's first column.
        y_label: Label of the vertical axis.
        series: Lines to draw, at least one, each with at least one point.
        y_range: Range of the vertical axis; None: the range of the points.
        whole_x: Whether the horizontal axis has ticks at whole numbers only.
        x_name: Function that names a place of the horizontal axis; None: the number itself.
    """
    shown = [Series(each.label, each.style, thin(each.points, _MOST_POINTS)) for each in series]
    xs = [x for each in shown for x, _ in each.points]
    ys = [y for each in shown for _, y in each.points]
    x_low, x_high = widened(min(xs), max(xs))
    y_values = ticks(*(y_range or widened(min(ys), max(ys))))
    y_low, y_high = y_values[0], y_values[-1]
    x_values = [x for x in ticks(x_low, x_high) if x_low <= x <= x_high and (not whole_x or x == int(x))]
    x_at, y_at = _scales((x_low, x_high), (y_low, y_high))
    name = x_name or number
    return Chart(
        title,
        summary,
        x_label,
        y_label,
        tuple(Tick(x_at(x), name(x)) for x in x_values),
        tuple(Tick(y_at(y), number(y)) for y in y_values),
        (x_label, *(each.label for each in shown)),
        _table(shown, x_name or number),
        curves=tuple(_curve(each, x_at, y_at) for each in shown),
    )


def histogram(
    title: str,
    summary: str,
    *,
    x_label: str,
    y_label: str,
    values: Sequence[float],
    cut: float | None,
    cut_label: str,
    num_bins: int = 30,
) -> Chart:
    """Draw how many values lie in each range; bars from `cut` on have another style.

    Args:
        title: Heading of the chart.
        summary: Content of the chart, in words.
        x_label: Label of the values.
        y_label: Label of the counts.
        values: Values to count; at least one.
        cut: Smallest value that was kept; None: no line is drawn.
        cut_label: Label of the line at the cut.
        num_bins: Number of bars, which have equal width.
    """
    low, high = widened(min(values), max(values))
    width = (high - low) / num_bins
    counts = [0] * num_bins
    for value in values:
        counts[min(int((value - low) / width), num_bins - 1)] += 1
    y_values = ticks(0, max(counts))
    x_at, y_at = _scales((low, high), (0, y_values[-1]))
    edges = [low + place * width for place in range(num_bins)]
    boxes = [
        Box(
            round(x_at(edge) + 0.5, 1),
            round(y_at(count), 1),
            round(max(0.5, x_at(edge + width) - x_at(edge) - 1), 1),
            round(y_at(0) - y_at(count), 1),
            "b-dropped" if cut is not None and edge + width / 2 < cut else "b-kept",
        )
        for edge, count in zip(edges, counts, strict=True)
        if count
    ]
    return Chart(
        title,
        summary,
        x_label,
        y_label,
        tuple(Tick(x_at(x), number(x)) for x in ticks(low, high) if low <= x <= high),
        tuple(Tick(y_at(y), number(y)) for y in y_values),
        (x_label, y_label),
        tuple(
            (f"{number(edge)} to {number(edge + width)}", str(count))
            for edge, count in zip(edges, counts, strict=True)
            if count
        ),
        boxes=tuple(boxes),
        cut=None if cut is None else Tick(round(min(max(x_at(cut), LEFT), WIDTH - RIGHT), 1), cut_label),
    )


def ticks(low: float, high: float) -> list[float]:
    """Choose round numbers that cover a range: steps of 1, 2 or 5 times a power of ten."""
    low, high = widened(low, high)
    rough = (high - low) / _NUM_TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 10) for place in range(first, last + 1)]


def widened(low: float, high: float) -> tuple[float, float]:
    """Widen a range that is empty, or too narrow for labels that differ."""
    least = 1e-9 * max(1.0, abs(low), abs(high))
    return (low, high) if high - low > least else (low - 0.5, high + 0.5)


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """Choose at most `most` points evenly, with the first and last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def number(value: float) -> str:
    """Write a number in few characters."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.3g}"


def _scales(
    x_range: tuple[float, float], y_range: tuple[float, float]
) -> tuple[Callable[[float], float], Callable[[float], float]]:
    (x_low, x_high), (y_low, y_high) = x_range, y_range

    def x_at(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def y_at(y: float) -> float:
        return round(TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    return x_at, y_at


def _curve(series: Series, x_at: Callable[[float], float], y_at: Callable[[float], float]) -> DrawnCurve:
    placed = tuple((x_at(x), y_at(y)) for x, y in series.points)
    path = "M" + " L".join(f"{x} {y}" for x, y in placed)
    return DrawnCurve(series.label, series.style, path, placed if len(placed) <= _MOST_ROWS else ())


def _table(series: Sequence[Series], name: Callable[[float], str]) -> tuple[tuple[str, ...], ...]:
    known = [dict(each.points) for each in series]
    xs = thin([(x, 0.0) for x in sorted({x for each in known for x in each})], _MOST_ROWS)
    return tuple((name(x), *(number(each[x]) if x in each else "" for each in known)) for x, _ in xs)
