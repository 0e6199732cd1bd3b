"""Lines of the documentation are at most 120 characters long, but for tables, blocks of code and addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LIMIT = 120
_PAGES = (ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/**/*.md"))


def long_lines(text: str) -> Iterator[tuple[int, int]]:
    """Number and length of each line that should have been wrapped."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.lstrip().startswith("|") and len(line) > _LIMIT and len(line.split()) > 1:
            yield number, len(line)


def test_lines_are_wrapped() -> None:
    assert len(_PAGES) > 50
    found = {str(page.relative_to(ROOT)): [*long_lines(page.read_text(encoding="utf-8"))] for page in _PAGES}
    assert {page: lines for page, lines in found.items() if lines} == {}


def test_what_counts_as_a_long_line() -> None:
    long = "word " * 30
    assert [*long_lines(f"short\n{long}\n| {long}|\n```text\n{long}\n```\n{'x' * 200}\n{long}")] == [(2, 150), (8, 150)]
