"""A journal on an object store: entries numbered from 0, each created on the condition that it is not there.

An object cannot be appended to. So each entry is an object of its own; whoever finds a number taken takes the next. A
reader walks the numbers until one is missing: no listing, no gap, the same order for all.
"""

from __future__ import annotations

import json
from typing import Any

from eda_service.storage.objects import Storage

_AHEAD = 16  # entries asked for at once


class Journal:
    """Entries below one prefix.

    Args:
        storage: Where.
        prefix: Of every entry's key.
    """

    def __init__(self, storage: Storage, prefix: str) -> None:
        self._storage, self._prefix = storage, prefix
        self._next = 0  # no entry before it is missing

    def append(self, value: Any) -> int:
        """Add an entry; returns its number."""
        data = json.dumps(value).encode("utf-8")
        number = max(self._next, self._next + len(self.read(self._next)))
        while not self._storage.create(self._key(number), data):
            number += 1
        self._next = number + 1
        return number

    def read(self, start: int = 0) -> list[Any]:
        """Entries from a number on."""
        found: list[Any] = []
        ahead = 1
        while True:
            first = start + len(found)
            batch = self._storage.read_many([self._key(first + n) for n in range(ahead)])
            for data in batch:
                if data is None:
                    return found
                found.append(json.loads(data))
            ahead = _AHEAD  # one entry is rarely asked for in vain, a long journal is read in strides

    def _key(self, number: int) -> str:
        return f"{self._prefix}/{number:08d}.json"
