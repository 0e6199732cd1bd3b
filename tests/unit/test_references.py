"""`name@version` is parsed in one place; the oracle is the rule written out by hand."""

from __future__ import annotations

import pytest

from eda_service.references import Alias, Reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("math", Reference("math")),
        ("math@3", Reference("math", 3)),
        ("Math.v2_x-1@12", Reference("Math.v2_x-1", 12)),
        ("math@latest", Reference("math", Alias.LATEST)),
        ("math@champion", Reference("math", Alias.CHAMPION)),
        (f"{'m' * 96}@999999999", Reference("m" * 96, 999_999_999)),
    ],
)
def test_a_reference_is_read_and_written(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["", "@1", "math@", "math@3@4", "math@newest", "math@-1", "math@³", "math@1234567890", "a/b@1", "../a@1", "a b",
     "m" * 97, "math@3\n"],
)  # fmt: skip
def test_what_is_no_reference_is_none(text: str) -> None:
    assert Reference.parse(text) is None
