"""Token ids to text as they come: whole characters only, and nothing that may still turn out to be a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are not yet a whole character


class TextStream:
    """Decodes one answer piece by piece.

    Args:
        tokenizer: The target's, with a Rust backend.
        stops: The answer ends before the first of these that appears.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        # transformers' own `decode` adds checks that cost more than this call itself.
        self._backend, self._stops = tokenizer.backend_tokenizer, list(stops)
        self._ids: list[int] = []
        # Tokens before `_prefix` are settled; `_prefix.._read` are decoded again, because a token's text may depend on
        # the ones before it (a leading space, say).
        self._prefix = self._read = 0
        self._held = ""
        self.stopped = False

    def push(self, token_ids: Sequence[int]) -> str:
        """Take new tokens; returns the text that is certain now."""
        if self.stopped:
            return ""
        self._ids.extend(token_ids)
        settled = self._decode(self._ids[self._prefix : self._read])
        text = self._decode(self._ids[self._prefix :])
        if text.endswith(_REPLACEMENT):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return self._release(text[len(settled) :])

    def finish(self) -> str:
        """The rest: what was held back for a stop string that did not come, and bytes that never became a character."""
        if self.stopped:
            return ""
        settled = self._decode(self._ids[self._prefix : self._read])
        rest = self._release(self._decode(self._ids[self._prefix :])[len(settled) :])
        held, self._held = self._held, ""
        return rest if self.stopped else rest + held

    def _decode(self, token_ids: Sequence[int]) -> str:
        return str(self._backend.decode(token_ids, skip_special_tokens=True))

    def _release(self, text: str) -> str:
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._held[: min(found)]
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        certain = len(self._held) - keep
        released, self._held = self._held[:certain], self._held[certain:]
        return released


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
