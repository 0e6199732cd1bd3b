"""Limits of one API key at the endpoint: requests per minute, and requests at the same time.

Each API process counts its own requests; with several processes behind a balancer a key has the limit in each. A
service without keys, on loopback, has no limits.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from api.auth import Caller
from api.settings import Settings
from eda_service.errors import OverloadedError

_WINDOW_S = 60.0
_FORGET_AT = 1024


class RateLimitedError(OverloadedError):
    """A key sends too many requests; `retry_after_s` says when the next is accepted."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass
class _Use:
    begun_s: deque[float] = field(default_factory=deque)
    num_open: int = 0

    def forget_before(self, limit_s: float) -> None:
        while self.begun_s and self.begun_s[0] <= limit_s:
            self.begun_s.popleft()


class Limits:
    """Counts the requests of each key; used on one event loop. Every admitted request must be released.

    Args:
        settings: Limits of keys that have none of their own.
        clock: Clock in seconds that never goes back.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._at_once = settings.requests_per_minute, settings.concurrent_requests
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def admit(self, caller: Caller) -> Callable[[], None]:
        """Count a request that begins; call the returned function, once or more, when the request has ended.

        Raises:
            RateLimitedError: The key has too many requests in the last minute, or too many open now.
        """
        key = caller.key_id
        if key is None:
            return _nothing
        now = self._clock()
        self._forget(now)
        use = self._uses.setdefault(key, _Use())
        use.forget_before(now - _WINDOW_S)
        at_once = self._at_once if caller.concurrent_requests is None else caller.concurrent_requests
        if at_once is not None and use.num_open >= at_once:
            raise RateLimitedError(
                f"{use.num_open} requests of this key are open and the limit is {at_once}; wait for one to end",
                retry_after_s=1,
            )
        per_minute = self._per_minute if caller.requests_per_minute is None else caller.requests_per_minute
        if per_minute is not None and len(use.begun_s) >= per_minute:
            wait_s = use.begun_s[len(use.begun_s) - per_minute] + _WINDOW_S - now
            raise RateLimitedError(
                f"this key has begun {len(use.begun_s)} requests in the last minute and the limit is {per_minute}; try "
                f"again in {math.ceil(wait_s)} s",
                retry_after_s=max(1, math.ceil(wait_s)),
            )
        if per_minute is not None:
            use.begun_s.append(now)
        use.num_open += 1
        return _once(use)

    def _forget(self, now: float) -> None:
        """Remove the counts of keys without recent requests, once there are many keys."""
        if len(self._uses) < _FORGET_AT:
            return
        for key, use in list(self._uses.items()):
            use.forget_before(now - _WINDOW_S)
            if not use.begun_s and not use.num_open:
                del self._uses[key]


def _once(use: _Use) -> Callable[[], None]:
    left = [use]

    def release() -> None:
        if left:
            left.pop().num_open -= 1

    return release


def _nothing() -> None:
    """Do nothing: a request without limits has nothing to release."""
