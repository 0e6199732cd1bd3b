"""What a replica says when it must be replaced: every owner of its group may see it, so it names nobody's models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from api.endpoint.app import Endpoint

check_health: Any = Endpoint.func_or_class.check_health  # type: ignore[attr-defined]  # the decorator is untyped


@pytest.mark.parametrize(
    ("failure", "broken", "words"),
    [
        ("OSError: /home/ann/secret-model", [], "could not be loaded"),
        (None, ["anns-model", "bobs-model"], "an engine of this replica has failed"),
    ],
)
def test_the_error_names_no_model_and_the_log_does(
    caplog: pytest.LogCaptureFixture, failure: str | None, broken: list[str], words: str
) -> None:
    replica = SimpleNamespace(_reconciler=SimpleNamespace(failure=failure), _models=SimpleNamespace(broken=broken))
    with pytest.raises(RuntimeError, match=words) as caught:
        check_health(replica)
    assert not [word for word in ("ann", "bob", "secret") if word in str(caught.value)]
    assert all(name in caplog.text for name in broken)


def test_a_replica_that_works_says_nothing() -> None:
    check_health(SimpleNamespace(_reconciler=SimpleNamespace(failure=None), _models=SimpleNamespace(broken=[])))
