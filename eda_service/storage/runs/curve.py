"""`curve.jsonl` of a training run: one CurvePoint per line, appended during training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from eda_service.records import CurvePoint, Stage

CURVE_FILE = f"{Stage.TRAIN.value}/curve.jsonl"
"""Path in the run directory."""


class Curve:
    """The points of one run.

    Args:
        directory: Directory of the training stage.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / Path(CURVE_FILE).name

    def keep(self, wanted: Callable[[CurvePoint], bool]) -> None:
        """Delete all other points, because their steps will be taken again."""
        kept = [point.model_dump_json() for point in self.read() if wanted(point)]
        self._path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def append(self, point: CurvePoint) -> None:
        """Add a point."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(point.model_dump_json() + "\n")

    def read(self) -> Iterator[CurvePoint]:
        """Read all points so far; an incomplete last line, which a killed writer leaves, is skipped."""
        if self._path.exists():
            *whole, _ = self._path.read_text(encoding="utf-8").split("\n")
            yield from map(CurvePoint.model_validate_json, whole)
