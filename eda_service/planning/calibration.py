"""How much a real run took beside its plan: factors per stage, to plan the next runs on the same machines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Calibration:
    """Measured over planned.

    Attributes:
        generate: Factor on decoding in self-generation.
        train: Factor on training steps and held-out passes.
        evaluate: Factor on the evaluation's decoding.
        generate_start_s: Start of actors and loads; None: the device's.
        train_start_s: Start of the worker group; None: the device's.
        validate_s: The stage; None: the constant.
    """

    generate: float = 1.0
    train: float = 1.0
    evaluate: float = 1.0
    generate_start_s: float | None = None
    train_start_s: float | None = None
    validate_s: float | None = None
