"""Troubles that come back with every look: told when they begin and when they change, counted in between."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_AGAIN_S = 3600.0
_MAX_TOLD = 10_000


@dataclass
class _Trouble:
    what: str
    since_s: float
    told_s: float
    num_times: int = 1


class Troubles:
    """Remembers what is in trouble, so that a look every second does not write the same traceback every second.

    Args:
        logger: Of the module whose troubles these are.
        clock: Seconds that only grow.
    """

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger, self._clock = logger, clock
        self._known: dict[str, _Trouble] = {}

    def tell(self, key: str, error: Exception) -> float:
        """Note that something failed; the log hears of it once, with its traceback, and then once an hour.

        Args:
            key: What failed.
            error: How.

        Returns:
            For how many seconds it has failed in this way.
        """
        what, now = f"{type(error).__name__}: {str(error)[:200]}", self._clock()
        known = self._known.get(key)
        if known is None or known.what != what:
            if known is None and len(self._known) >= _MAX_TOLD:
                self._known.pop(next(iter(self._known)))
            self._known[key] = _Trouble(what, now, now)
            self._logger.error("%s failed", key, exc_info=error)
            return 0.0
        known.num_times += 1
        if now - known.told_s >= _AGAIN_S:
            known.told_s = now
            self._logger.error("%s still fails, %d times by now: %s", key, known.num_times, what)
        return now - known.since_s

    @contextmanager
    def caught(self, key: str) -> Iterator[None]:
        """A part of a loop that must live: whatever goes wrong in the block is told, and ends only the block."""
        try:
            yield
        except Exception as error:
            self.tell(key, error)
        else:
            self.over(key)

    def over(self, key: str) -> None:
        """Note that it went well."""
        known = self._known.pop(key, None)
        if known is not None and known.num_times > 1:
            self._logger.info("%s goes well again after %d failures", key, known.num_times)
