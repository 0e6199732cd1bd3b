"""Calibration: the cost of a real run divided by its plan, as factors per stage, to plan the next runs on the same
machines.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Calibration:
    """Measured times divided by planned ones.

    Attributes:
        generate: Factor on decoding in self-generation.
        train: Factor on training steps and held-out passes.
        evaluate: Factor on the evaluation's decoding.
        generate_start_s: Seconds to start actors and load weights; None: the device's constant.
        train_start_s: Seconds to start the worker group; None: the device's constant.
        validate_s: Seconds of stage validate; None: the plan's constant.
    """

    generate: float = 1.0
    train: float = 1.0
    evaluate: float = 1.0
    generate_start_s: float | None = None
    train_start_s: float | None = None
    validate_s: float | None = None
