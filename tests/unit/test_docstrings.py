"""Docstrings name the thing they are about: telegrams such as `root: Of the pack.` are refused.

Checked are the first line of each docstring (also of those under a constant or a member) and the first line of each
description of an argument, an attribute, a result or an error.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Packages whose docstrings still hold telegrams. The set only shrinks: a package without any must leave it.
_OPEN = {"api", "eda_service/cli", "eda_service/client"}
_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):$")
_NAMED = re.compile(r"\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*(?: \([^)]*\))?: (.*)$")
# A line that begins so leaves out its noun: it begins with a preposition, a pronoun or a question word instead.
_WITHOUT_NOUN = re.compile(
    r"(?:of|in|at|by|from|for(?! each| every)|with|on|over|beside|before|after|as|like|likewise|also|so"
    r"|its?|their|they|those|these|that|this|the (?:same|others?|one|ones|rest)|neither|what|where|who|whose|whom|which"
    r"|one (?:is|are|has|was)|none (?:of|does|do|is|are)|there (?:is|are|was|were) (?:one|none|some|it)"
    r"|when|why|told|see|says?|too|not|more)\b",
    re.IGNORECASE,
)
_POSSESSIVE = re.compile(r"[\w ]+(?:'s|s')\.?$")
_LETTER = re.compile(r"[A-Z]\.?$")


def is_telegram(text: str) -> bool:
    """Whether a line leaves out the noun that it is about."""
    return any(rule.match(text) for rule in (_WITHOUT_NOUN, _POSSESSIVE, _LETTER))


def described(docstring: str) -> Iterator[str]:
    """The first line of each description of an argument, an attribute, a result or an error."""
    section, is_new = "", False
    for line in docstring.splitlines():
        if line and not line.startswith(" "):
            heading = _SECTION.match(line)
            section, is_new = heading[1] if heading else "", True
        elif section and re.match(r" {4}\S", line) and (is_new or section not in {"Returns", "Yields"}):
            named = _NAMED.match(line.strip())
            yield named[1] if named else line.strip()
            is_new = False


def lacks_noun(summary: str) -> bool:
    """Whether the first line of a docstring begins with a shape or leaves out its noun (`See ...` is an imperative)."""
    is_imperative = summary.startswith(("See `", "Not "))
    return summary.startswith("(") or (_WITHOUT_NOUN.match(summary) is not None and not is_imperative)


def strings(node: ast.AST) -> Iterator[str]:
    """The docstrings below a node, also those under constants and members; expressions are not entered."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
            yield inspect.cleandoc(child.value.value)
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from strings(child)


def telegrams(source: str) -> Iterator[str]:
    """The telegrams in the docstrings of a module."""
    for docstring in strings(ast.parse(source)):
        yield from filter(lacks_noun, docstring.splitlines()[:1])
        yield from filter(is_telegram, described(docstring))


def package_of(path: Path) -> str:
    """`eda_service/drafts` of a file in that package, and the top-level folder of every other file."""
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "eda_service" and len(parts) > 2 else parts[0]


def test_descriptions_name_the_thing() -> None:
    files = [path for name in ("eda_service", "api", "jobs", "benchmarks") for path in (ROOT / name).rglob("*.py")]
    assert len(files) > 500
    bad = {path: [*telegrams(path.read_text(encoding="utf-8"))] for path in files}
    bad = {path: lines for path, lines in bad.items() if lines}
    assert {str(path.relative_to(ROOT)): lines for path, lines in bad.items() if package_of(path) not in _OPEN} == {}
    assert {package_of(path) for path in bad} >= _OPEN, "a package without telegrams stays out of _OPEN"


def test_what_a_telegram_is() -> None:
    module = '''
LIMIT = 1
"""Of one file."""

def sizes(root, limit):
    """Add up sizes.

    Args:
        root: Of the pack.
        limit: Largest size in bytes; 0 means that there
            is no limit.

    Returns:
        What was found.

    Raises:
        ValueError: It is too large.

    Likewise stands in a sentence of prose here.
    """
'''
    assert [*telegrams(module)] == ["Of one file.", "Of the pack.", "What was found.", "It is too large."]
    fine = ("The pack's directory.", "Whether the pack is read.", "Tokens per second.")
    assert not any(map(is_telegram, fine))
    assert all(map(is_telegram, ("The target's.", "K.", "There is none.", "Likewise.", "As above.")))
