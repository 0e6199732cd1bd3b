"""The training curve on disk, as a killed writer leaves it and as a resumed one goes on."""

from __future__ import annotations

from pathlib import Path

from eda_service.records import CurvePoint
from eda_service.storage.runs.curve import Curve


def point(step: int) -> CurvePoint:
    return CurvePoint(step=step, loss=1.0 / step, regression_loss=0.1, cross_entropy_loss=0.9, learning_rate=1e-3)


def test_points_come_back_in_order(tmp_path: Path) -> None:
    curve = Curve(tmp_path)
    assert list(curve.read()) == []
    for step in (1, 2, 3):
        curve.append(point(step))
    assert list(Curve(tmp_path).read()) == [point(1), point(2), point(3)]


def test_half_a_line_is_none_and_a_resumed_run_writes_over_it(tmp_path: Path) -> None:
    curve = Curve(tmp_path)
    for step in (1, 2, 3):
        curve.append(point(step))
    path = tmp_path / "curve.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 4, "lo', encoding="utf-8")
    assert [each.step for each in curve.read()] == [1, 2, 3]
    curve.keep(lambda each: each.step <= 2)
    curve.append(point(3))
    assert [each.step for each in curve.read()] == [1, 2, 3]
