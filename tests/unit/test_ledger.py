"""The ledger of goals is what the result files give, and its judgements are those that were read off them by hand."""

from __future__ import annotations

import re

from benchmarks.ledger import LEDGER, ledger

_LINE = re.compile(
    r"^\| (?P<goal>.+?) \| at (?:most|least) [\d.]+ \| (?P<measured>[\d.]+) \| (?P<met>yes|\*\*no\*\*) \|", re.M
)
_BY_HAND = {
    "batch 1 without a draft, over transformers' best `generate`": ("1.887", "**no**"),
    "batch 1 without a draft, over vLLM (CPU)": ("1.261", "yes"),
    "adapted draft over no draft, T=1, code": ("1.404", "yes"),
    "overhead over the bare engine, 16 streams, a fraction": ("0.1133", "**no**"),
    "POST p99 on SQLite, milliseconds": ("8.3", "yes"),
    "grid: `code.best_over_eda_selfgen`": ("1.216", "yes"),
    "grid: `math.train_seconds_eda_over_retrain`": ("0.4896", "**no**"),
}


def test_the_committed_table_is_what_the_files_give() -> None:
    assert LEDGER.read_text(encoding="utf-8") == ledger(), (
        "run `python -m benchmarks.ledger` and look at the difference"
    )


def test_numbers_and_judgements_are_those_read_by_hand() -> None:
    found = {
        line["goal"]: (line["measured"], line["met"]) for line in _LINE.finditer(LEDGER.read_text(encoding="utf-8"))
    }
    assert {goal: found.get(goal) for goal in _BY_HAND} == _BY_HAND
