"""Settings that versions before had: what is stored with them is read without them, what is asked with them is refused.

A run directory, a pack and a row of the database hold every setting of the version that wrote them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationInfo

ASKED = {"asked": True}
"""The validation context of settings that somebody asks for now, rather than reads from where they were stored."""

_EARLY = ("early_epochs", "early_fraction")


def without_early_training(values: Any, info: ValidationInfo) -> Any:
    """`train` without the two settings of early training (ADR 0021).

    Raises:
        ValueError: They are asked for, and would have changed something.
    """
    if not isinstance(values, Mapping):
        return values
    if values.get("early_epochs") and info.context == ASKED:
        raise ValueError(
            f"train.early_epochs is {values['early_epochs']}, but training begins when all samples are selected: early "
            "training made a job 1.08 times as fast and was taken out; leave train.early_epochs and "
            "train.early_fraction out"
        )
    return {name: value for name, value in values.items() if name not in _EARLY}
