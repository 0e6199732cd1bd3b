"""The error tree: codes are stable words, and an error survives pickling with its field."""

from __future__ import annotations

import pickle
import re

import pytest

from eda_service import errors
from eda_service.errors import EdaError

ALL = sorted(
    (value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, EdaError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", ALL)
def test_pickling_keeps_kind_message_and_param(kind: type[EdaError]) -> None:
    """Ray carries exceptions across processes."""
    again = pickle.loads(pickle.dumps(kind("what was found", param="train.epochs")))
    assert type(again) is kind
    assert (again.message, again.param, str(again)) == ("what was found", "train.epochs", "what was found")


@pytest.mark.parametrize("kind", ALL)
def test_codes_are_snake_case_words(kind: type[EdaError]) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    assert {kind.__name__ for kind in ALL if kind.retryable} == {
        "OverloadedError",
        "QuotaExceededError",
        "StorageError",
        "WorkerLostError",
    }
