"""How long the newest decoding rounds of an engine took."""

from __future__ import annotations

import time
from collections import deque

_WINDOW_S = 10.0
_NEWEST = 1024


class RoundTimes:
    """Round times of the last ten seconds; written by the engine's thread, read by any."""

    def __init__(self) -> None:
        self._rounds: deque[tuple[float, float]] = deque(maxlen=_NEWEST)

    def add(self, started_s: float, ended_s: float) -> None:
        """Note the start and end of a round, in `time.perf_counter` seconds."""
        self._rounds.append((ended_s, ended_s - started_s))

    def mean_s(self) -> float:
        """Return the mean time of a round; 0 without rounds in the window."""
        since_s = time.perf_counter() - _WINDOW_S
        found = [taken_s for ended_s, taken_s in self._rounds.copy() if ended_s >= since_s]
        return sum(found) / len(found) if found else 0.0
