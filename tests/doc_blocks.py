"""The fenced blocks of the documentation's pages, found by Sybil.

A block that cannot run has `<!-- skip: next "why" -->` before it; Sybil's own directive.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, SkipParser

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
RUNNABLE = ("bash", "python")
PAGES = sorted(path for path in DOCS.rglob("*.md") if "hooks" not in path.parts)
_OPENING = re.compile(r"^```(\w*)", re.MULTILINE)
_COMMAND = re.compile(r"(?<![\w./-])eda (?=[a-z-])[^|;)&>\n]*")

Evaluate = Callable[[Example], None]


def name_of(page: Path) -> str:
    """A page's path below `docs/`."""
    return str(page.relative_to(DOCS))


def languages(page: Path) -> list[str]:
    """What each block says it is, in order."""
    return _OPENING.findall(page.read_text(encoding="utf-8"))[::2]


def blocks(page: Path, language: str) -> list[str]:
    """The texts of all blocks in a language, those that are skipped included."""
    document = Document.parse(str(page), CodeBlockParser(language, lambda _example: None))
    return [str(example.parsed) for example in document]


def runnable(page: Path, evaluate: Evaluate) -> Document:
    """A page whose shell and Python blocks are given to `evaluate`, in order; skipped ones raise `SkipTest`."""
    parsers = [CodeBlockParser(language, evaluate) for language in RUNNABLE]
    return Document.parse(str(page), *parsers, SkipParser())


def num_to_run(page: Path) -> int:
    """Blocks that are not skipped."""
    text = page.read_text(encoding="utf-8")
    return sum(languages(page).count(each) for each in RUNNABLE) - text.count("<!-- skip: next")


def eda_lines(script: str) -> list[str]:
    """The `eda` commands in a shell script."""
    return [found.group().strip() for found in _COMMAND.finditer(script.replace("\\\n", " "))]
