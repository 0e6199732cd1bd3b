"""`curve.jsonl` of a training run: one CurvePoint a line, appended while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from eda_service.records import CurvePoint, Stage

CURVE_FILE = f"{Stage.TRAIN.value}/curve.jsonl"
"""In the run directory."""


class Curve:
    """The points of one run.

    Args:
        directory: Of the training stage.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / Path(CURVE_FILE).name

    def keep(self, wanted: Callable[[CurvePoint], bool]) -> None:
        """Forget the other points: their steps will be taken again."""
        kept = [point.model_dump_json() for point in self.read() if wanted(point)]
        self._path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def append(self, point: CurvePoint) -> None:
        """Add a point."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(point.model_dump_json() + "\n")

    def read(self) -> Iterator[CurvePoint]:
        """All points so far; a last line that is half there, as a killed writer leaves it, is none yet."""
        if self._path.exists():
            *whole, _ = self._path.read_text(encoding="utf-8").split("\n")
            yield from map(CurvePoint.model_validate_json, whole)
