"""`<home>/up.json`: where everything of a running service is, written by its supervisor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_up(home: Path) -> dict[str, Any] | None:
    """What `eda up` wrote down, or None."""
    try:
        facts: dict[str, Any] = json.loads((home / "up.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts
