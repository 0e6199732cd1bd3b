"""The type of a tracker: a function that receives metrics at an optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eda_service.config.job import AdaptConfig

Report = Callable[[int, Mapping[str, float]], None]
"""`report(step, metrics)`: add metrics by name at an optimizer step."""


def settings_by_name(config: AdaptConfig) -> dict[str, str]:
    """Return a job's settings by dotted name."""
    found: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}.{name}" if path else name)
        else:
            found[path] = str(value)

    walk(config.model_dump(mode="json"), "")
    return found
