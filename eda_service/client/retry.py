"""When a failed call is repeated, and how much later: exponential back-off with jitter, or what the service asks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from eda_service.client.errors import ApiError
from eda_service.errors import EdaError

RETRYABLE_STATUS = frozenset({429, 502, 503, 504})
_MAX_DOUBLINGS = 16


@dataclass(frozen=True)
class RetryPolicy:
    """How a call is repeated.

    Args:
        max_retries: Repetitions after the first try.
        first_delay_s: Wait before the first repetition; doubles each time.
        max_delay_s: Longest wait that we choose ourselves.
        max_retry_after_s: Longest wait that the service may ask for; above it the error is handed to the caller.
        draw: A number in [0, 1): the jitter, so that many clients do not come back at the same moment.
    """

    max_retries: int = 2
    first_delay_s: float = 0.5
    max_delay_s: float = 8.0
    max_retry_after_s: float = 60.0
    draw: Callable[[], float] = random.random

    def delay_s(self, num_retries: int) -> float:
        """Wait before repetition `num_retries` (from 0): between half of the back-off and all of it."""
        full_s = min(self.max_delay_s, self.first_delay_s * 2.0 ** min(num_retries, _MAX_DOUBLINGS))
        return full_s * (1.0 - 0.5 * self.draw())

    def after_break(self, num_retries: int, *, repeatable: bool) -> float | None:
        """Wait after a broken connection; None: do not repeat."""
        return self.delay_s(num_retries) if repeatable and num_retries < self.max_retries else None

    def after_answer(
        self, status: int, headers: Mapping[str, str], num_retries: int, *, repeatable: bool, now: float
    ) -> float | None:
        """Wait after an answer with an error status; None: do not repeat.

        Args:
            status: HTTP status.
            headers: The answer's, in lower case; `retry-after` and `x-should-retry` are honoured.
            num_retries: Repetitions so far.
            repeatable: Whether the call does no harm twice.
            now: Seconds since the epoch, for a `retry-after` that is a date.
        """
        delay_s = self.after_break(num_retries, repeatable=repeatable and should_retry(status, headers))
        asked_s = retry_after_s(headers, now)
        if delay_s is None or asked_s is None:
            return delay_s
        return None if asked_s > self.max_retry_after_s else max(asked_s, delay_s)


def should_retry(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the service's error may pass by itself."""
    return status in RETRYABLE_STATUS and headers.get("x-should-retry", "").lower() != "false"


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """`retry-after` in seconds (RFC 9110, 10.2.3: a number of seconds or a date); None when absent or unreadable."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except ValueError:
        return None


class Patience:
    """How long a service that went away is waited for: it may be restarting, and the job goes on meanwhile.

    Args:
        policy: Gives the waits between two looks.
        limit_s: How long it may be away.
        clock: Monotonic seconds.
    """

    def __init__(self, policy: RetryPolicy, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy, self._limit_s, self._clock = policy, limit_s, clock
        self._away_since: float | None = None
        self._num_looks = 0

    def found(self) -> None:
        """The service answered."""
        self._away_since, self._num_looks = None, 0

    def lost(self, error: EdaError) -> float:
        """The service did not answer; returns how long to wait.

        Raises:
            EdaError: `error` itself, when it will not pass by itself or the service has been away for too long.
        """
        now = self._clock()
        self._away_since = now if self._away_since is None else self._away_since
        if not error.retryable or now - self._away_since > self._limit_s:
            raise error
        return max(self.pause(), (error.retry_after_s or 0.0) if isinstance(error, ApiError) else 0.0)

    def pause(self) -> float:
        """How long to wait before the next look."""
        self._num_looks += 1
        return self._policy.delay_s(self._num_looks - 1)
