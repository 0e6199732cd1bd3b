"""Waits worked out by hand: back-off, jitter, `retry-after`, patience."""

from __future__ import annotations

import pytest

from eda_service.client import ServiceUnreachableError
from eda_service.client.retry import Patience, RetryPolicy, retry_after_s
from eda_service.errors import InputError

NOW = 1_767_225_600.0  # Thu, 01 Jan 2026 00:00:00 GMT
LEAST = RetryPolicy(first_delay_s=0.5, max_delay_s=8.0, draw=lambda: 1.0)
MOST = RetryPolicy(max_retries=9, first_delay_s=0.5, max_delay_s=8.0, draw=lambda: 0.0)


def test_back_off_doubles_up_to_its_limit_and_jitter_takes_at_most_half() -> None:
    assert [MOST.delay_s(num) for num in (0, 1, 2, 3, 4, 5, 10_000)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert [LEAST.delay_s(num) for num in range(3)] == [0.25, 0.5, 1.0]
    drawn = {RetryPolicy().delay_s(0) for _ in range(20)}
    assert len(drawn) > 1
    assert all(0.25 <= delay_s <= 0.5 for delay_s in drawn)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 23:59:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": text}, NOW) == seconds
    assert retry_after_s({}, NOW) is None


def test_the_longer_of_both_waits_counts() -> None:
    def delay(after: str) -> float | None:
        return MOST.after_answer(503, {"retry-after": after}, 1, repeatable=True, now=NOW)

    assert [delay("0"), delay("5"), delay("60"), delay("61")] == [1.0, 5.0, 60.0, None]


@pytest.mark.parametrize(
    ("status", "headers", "repeatable", "num_retries", "again"),
    [
        (503, {}, True, 0, True),
        (503, {}, True, 2, False),
        (503, {}, False, 0, False),
        (429, {"x-should-retry": "true"}, True, 0, True),
        (429, {"x-should-retry": "False"}, True, 0, False),
        (500, {}, True, 0, False),
        (409, {}, True, 0, False),
    ],
)
def test_what_is_repeated(
    status: int, headers: dict[str, str], repeatable: bool, num_retries: int, again: bool
) -> None:
    delay_s = LEAST.after_answer(status, headers, num_retries, repeatable=repeatable, now=NOW)
    assert (delay_s is not None) is again


def test_patience_counts_from_the_first_miss_and_forgets_when_found() -> None:
    now = [100.0]
    patience = Patience(MOST, limit_s=60.0, clock=lambda: now[0])
    gone = ServiceUnreachableError("gone")
    assert [patience.lost(gone), patience.lost(gone)] == [0.5, 1.0]
    now[0] = 160.0
    assert patience.lost(gone) == 2.0
    patience.found()
    now[0] = 161.0
    assert patience.lost(gone) == 0.5
    now[0] = 221.5
    with pytest.raises(ServiceUnreachableError):
        patience.lost(gone)


def test_patience_has_none_for_what_stays_wrong() -> None:
    with pytest.raises(InputError):
        Patience(MOST, limit_s=60.0).lost(InputError("wrong"))
