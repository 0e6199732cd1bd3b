"""JSON of strangers: too large, too deep, or no text."""

from __future__ import annotations

from pathlib import Path

import pytest

from eda_service.storage.inputs import bounded_json


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 200_000, "deeply"),
        ('{"a":' * 200_000, "deeply"),
        (r'"\ud800"', "surrogate"),
        (r'{"\uDFFF": 1}', "surrogate"),
        ("{", "Expecting"),
        ("9" * 5000, "digits"),
    ],
)
def test_what_is_no_text_of_ours_is_a_value_error(text: str, problem: str) -> None:
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=problem):
            bounded_json.parse(form)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert bounded_json.parse(r'"\ud83d\ude00"') == "\U0001f600"


def test_files_are_bounded_and_hold_objects(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert bounded_json.read_object(path, max_bytes=8) == {"a": 1}
    with pytest.raises(ValueError, match="8 bytes, the limit is 7"):
        bounded_json.read_object(path, max_bytes=7)
    path.write_text("[]")
    with pytest.raises(ValueError, match="no JSON object"):
        bounded_json.read_object(path)
