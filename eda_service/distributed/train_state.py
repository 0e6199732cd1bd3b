"""Where a training run stands: what a checkpoint carries beside weights and optimizer, and the curve on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eda_service.records import CurvePoint


@dataclass
class TrainState:
    """Progress of a run; saved with every checkpoint, so a resumed run makes the same decisions.

    Attributes:
        step: Optimizer steps taken.
        best_step: Step of the best checkpoint so far.
        best_acceptance: Its simulated acceptance length.
        initial_acceptance: The same before the first step: the base draft's.
        restarts: Times the worker group was resumed.
        seconds: In the loop up to this checkpoint, all starts together.
    """

    step: int = 0
    best_step: int = 0
    best_acceptance: float = -math.inf
    initial_acceptance: float = 0.0
    restarts: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the checkpoint's client state."""
        return asdict(self)


class Curve:
    """`curve.jsonl`: one CurvePoint a line, appended; points after a resumed step are dropped."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def truncate_after(self, step: int) -> None:
        """Forget points of steps that will be taken again."""
        kept = [point.model_dump_json() for point in self.read() if point.step <= step]
        self._path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def append(self, point: CurvePoint) -> None:
        """Add a point."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(point.model_dump_json() + "\n")

    def read(self) -> Iterator[CurvePoint]:
        """All points so far."""
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").split("\n"):
                if line:
                    yield CurvePoint.model_validate(json.loads(line))
