"""Numbers as text for people: durations, sizes, percentages and rates, the same in commands, pages and events.

An unknown number is an en dash on a page and in a table.
"""

from __future__ import annotations

UNKNOWN = "–"
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def duration(seconds: float | None) -> str:
    """Format seconds as `0.7s`, `12s`, `3m05s`, `2h07m` or `3d04h`; negative values count as 0."""
    if seconds is None:
        return UNKNOWN
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 172_800:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"


def size(num_bytes: float | None) -> str:
    """Format bytes as `512 B`, `1.5 kB`, `98.0 MB`, `2.1 GB` or `1.4 TB`; a kB is 1000 bytes."""
    if num_bytes is None:
        return UNKNOWN
    for unit, name in _SIZES:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes:.0f} B"


def percent(fraction: float | None, digits: int = 1) -> str:
    """Format a fraction (0 to 1) as `41.5%`; progress is shown without decimals."""
    return UNKNOWN if fraction is None else f"{fraction:.{digits}%}"


def rate(per_s: float | None, unit: str = "tokens") -> str:
    """Format a rate per second as `21.4 tokens/s`; below one, the seconds for each: `2.5s each`."""
    if per_s is None or per_s <= 0:
        return UNKNOWN
    return f"{per_s:.1f} {unit}/s".replace(" /", "/") if per_s >= 1 else f"{1 / per_s:.1f}s each"


def value_word(name: str) -> str:
    """Return the word for a sample's value: `value` if it is the distance of Eq. 14, else the words of its own name."""
    return "value" if name == "distance" else name.replace("_", " ")
