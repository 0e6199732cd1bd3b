"""Acceptance by selector and budget where data is not what lacks: the cells of the group `saturated` as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.paper.cells import SATURATED_SELECTORS, SATURATED_SHARES


def saturated_rows(found: Mapping[str, Mapping[str, Any]], domain: str = "math") -> list[list[str]]:
    """A row for each budget: share, samples, then the acceptance length by selector; the last one is all samples."""
    rows = []
    for share in SATURATED_SHARES:
        names = [f"{domain}-saturated_{method}_{100 * share:g}-selfgen-s0" for method in SATURATED_SELECTORS]
        known = [found[name] for name in names if name in found]
        if known:
            lengths = [f"{found[name]['acceptance_length']:.3f}" if name in found else "-" for name in names]
            rows.append([f"{share:.1%}", str(known[0]["selected"]["num_samples"]), *lengths])
    everything = found.get(f"{domain}-saturated_all-selfgen-s0")
    if everything is not None:
        length = f"{everything['acceptance_length']:.3f}"
        rows.append(["100.0%", str(everything["selected"]["num_samples"]), *[length] * len(SATURATED_SELECTORS)])
    return rows
