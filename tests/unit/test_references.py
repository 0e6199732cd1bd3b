"""`name@version` is parsed in one place; the oracle is the rule written out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig
from eda_service.errors import InputError
from eda_service.pipeline.pretrain import pretrain
from eda_service.references import Alias, Reference
from eda_service.storage.run import RunDir


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


@pytest.mark.parametrize("text", ["a b@1", "../drafts@1", "smollm2-135m@²", "smollm2-135m@latest", "smollm2-135m"])
def test_a_base_draft_that_could_not_be_registered_is_refused_before_anything_is_generated(
    tmp_path: Path, text: str
) -> None:
    config = AdaptConfig.model_validate({"target": {"model": "smollm2-135m-instruct"}})
    with pytest.raises(InputError, match="no name@version") as refused:
        pretrain(RunDir(tmp_path / "runs" / "one"), config, text)
    assert refused.value.param == "pretrain"
    assert not (tmp_path / "runs").exists()
