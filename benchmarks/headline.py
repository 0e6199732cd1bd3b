"""The README's picture: acceptance and speed before and after, as an SVG file from committed result files.

`python -m benchmarks.headline` writes `results/headline.svg`; a test compares the committed file with its output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

RESULTS = Path(__file__).parent / "results"
PICTURE = RESULTS / "headline.svg"
DOMAINS = ("math", "code", "medical")
METHODS = {"before": "training-free-none", "after": "best-selfgen"}
"""The two drafts in the picture: the base draft unchanged, and the one that preset `best` adapted."""
_COLOURS = {"before": "#9aa5b1", "after": "#2f6fde"}
_WIDTH, _HEIGHT = 760, 300
_BASE_Y, _TALLEST = 232, 160
_PANEL, _MARGIN = 350, 40
_BAR, _STEP = 38, 104


class Panel(NamedTuple):
    """One half of the picture.

    Attributes:
        title: Heading of the half.
        values: A number for each domain, before and after adapting.
        unit: Unit after each number.
    """

    title: str
    values: dict[str, list[float]]
    unit: str


def panels(results: Path = RESULTS) -> list[Panel]:
    """Collect acceptance lengths (trees 60/5/10, first seed) and speeds as served, both greedy.

    Args:
        results: Directory of result files.
    """
    summary = json.loads((results / "paper" / "summary.json").read_text(encoding="utf-8"))
    lengths = {key: [_length(results, domain, name) for domain in DOMAINS] for key, name in METHODS.items()}
    speeds = {key: [summary[f"{domain}.{name}.speedup"] for domain in DOMAINS] for key, name in METHODS.items()}
    return [
        Panel("Tokens a round (acceptance length)", lengths, ""),
        Panel("Speed, where 1 is no draft", speeds, "x"),
    ]


def _length(results: Path, domain: str, name: str) -> float:
    """Return the acceptance length of a draft, a mean over the domain's tasks."""
    cell = json.loads((results / "paper" / f"{domain}-{name}-s0.json").read_text(encoding="utf-8"))
    return fmean(task["T0"]["tree"]["acceptance_length"] for task in cell["tasks"].values())


def drawn(halves: list[Panel]) -> str:
    """Draw the picture as SVG text."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="13">',
        "<title>Acceptance length and speed with the base draft and with the adapted draft</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
    ]
    for index, half in enumerate(halves):
        lines += _panel(half, _MARGIN + index * _PANEL)
    for index, (key, label) in enumerate({"before": "base draft", "after": "adapted draft (preset best)"}.items()):
        x = _MARGIN + index * 120
        lines.append(f'<rect x="{x}" y="276" width="12" height="12" fill="{_COLOURS[key]}"/>')
        lines.append(f'<text x="{x + 18}" y="287" fill="#1f2933">{label}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _panel(half: Panel, left: int) -> Iterator[str]:
    tallest = max(value for values in half.values.values() for value in values)
    yield f'<text x="{left}" y="28" font-size="15" font-weight="bold" fill="#1f2933">{half.title}</text>'
    for group, domain in enumerate(DOMAINS):
        for place, key in enumerate(METHODS):
            value = half.values[key][group]
            height = round(_TALLEST * value / tallest, 1)
            x, y = left + group * _STEP + place * (_BAR + 2), round(_BASE_Y - height, 1)
            yield f'<rect x="{x}" y="{y}" width="{_BAR}" height="{height}" fill="{_COLOURS[key]}"/>'
            yield (
                f'<text x="{x + _BAR / 2}" y="{round(y - 6, 1)}" text-anchor="middle" fill="#1f2933">'
                f"{value:.2f}{half.unit}</text>"
            )
        yield f'<text x="{left + group * _STEP + _BAR}" y="250" text-anchor="middle" fill="#1f2933">{domain}</text>'
    yield f'<line x1="{left}" y1="{_BASE_Y}" x2="{left + 3 * _STEP - 20}" y2="{_BASE_Y}" stroke="#52606d"/>'


if __name__ == "__main__":
    PICTURE.write_text(drawn(panels()), encoding="utf-8")
