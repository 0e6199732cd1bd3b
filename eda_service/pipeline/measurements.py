"""The measurements of stage evaluate, with any engine."""

from __future__ import annotations

from typing import Any

from eda_service.measured_rows import AcceptanceRow, Frozen, LosslessCheck, SpeedRow
from eda_service.records import FixedScores, Rival


class Measurements(Frozen):
    """The numbers of the report about drafts, rivals and speed."""

    acceptance: tuple[AcceptanceRow, ...]
    speed: tuple[SpeedRow, ...]
    lossless: LosslessCheck
    rivals: tuple[Rival, ...]
    fixed: FixedScores | None
    num_prompts: int
    generation_defaults: dict[str, Any]
