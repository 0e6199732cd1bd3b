"""What stage evaluate measures, whoever runs the target."""

from __future__ import annotations

from typing import Any

from eda_service.measured_rows import AcceptanceRow, Frozen, LosslessCheck, SpeedRow
from eda_service.records import FixedScores, Rival


class Measurements(Frozen):
    """What the report says of drafts, rivals and speed."""

    acceptance: tuple[AcceptanceRow, ...]
    speed: tuple[SpeedRow, ...]
    lossless: LosslessCheck
    rivals: tuple[Rival, ...]
    fixed: FixedScores | None
    num_prompts: int
    generation_defaults: dict[str, Any]
