"""Decodes token ids while they arrive: only whole characters, and no text that may still become a stop string.

The joined pieces equal the tokenizer's text of all ids at once (`token_decoder` names the difficulties).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.endpoint.protocol.token_decoder import TokenDecoder

_REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are not yet a whole character


class RawText:
    """Decodes ids piece by piece, before spaces are cleaned up.

    Args:
        decoder: Decoder of the tokenizer.
        after: Tokens before the first one, whose text is known; if their text ends inside a character, decoding does
            not continue that character.
    """

    def __init__(self, decoder: TokenDecoder, after: Sequence[int] = ()) -> None:
        self._decoder = decoder
        self._begin()
        self.push(after)
        if self._read < len(self._ids):
            self._begin()

    def _begin(self) -> None:
        self._ids: list[int] = []
        # Tokens before `_prefix` are settled. Those from there to `_read` have been given out as `_settled`, and are
        # decoded again, because a token's text depends on whether one stands before it: they are some that have text.
        self._prefix = self._read = 0
        self._settled = ""
        self._end = 0  # of the ids that the run of bytes at their end, if any, leaves as they are

    def push(self, token_ids: Sequence[int]) -> str:
        """Take new tokens; returns the text that can no longer change."""
        for token_id in self._decoder.shown(token_ids):
            self._ids.append(token_id)
            if not self._decoder.is_byte(token_id):
                self._end = len(self._ids)
        if not self._decoder.streams or self._end == self._read:
            return ""
        text = self._decoder.raw(self._ids[self._prefix : self._end])
        if text.endswith(_REPLACEMENT):
            return ""
        new = text[len(self._settled) :]
        alone = self._decoder.raw(self._ids[self._read : self._end])
        if alone:
            self._prefix, self._settled = self._read, alone
        else:
            self._settled = text
        self._read = self._end
        return new

    def finish(self) -> str:
        """Return the remaining text, even if more tokens could have changed it."""
        return self._decoder.raw(self._ids[self._prefix :])[len(self._settled) :]


class TextStream:
    """Decodes one answer piece by piece.

    Args:
        tokenizer: Tokenizer of the target, with a Rust backend.
        stops: Stop strings; the answer ends before the first one that appears.
        after: Tokens of the text that this answer continues, where that text is shown too.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), *, after: Sequence[int] = ()) -> None:
        self._decoder, self._stops = TokenDecoder.of(tokenizer), list(stops)
        self._raw = RawText(self._decoder, after)
        self._unclean = self._held = ""
        self.stopped = False

    def push(self, token_ids: Sequence[int]) -> str:
        """Take new tokens; returns the text that can no longer change."""
        if self.stopped:
            return ""
        text = self._unclean + self._raw.push(token_ids)
        count = self._decoder.num_settled(text)
        self._unclean = text[count:]
        return self._release(self._decoder.cleaned(text[:count]))

    def finish(self) -> str:
        """Return the remaining text: what was held back for a stop string, and bytes that became no character."""
        if self.stopped:
            return ""
        released = self._release(self._decoder.cleaned(self._unclean + self._raw.finish()))
        held, self._held = self._held, ""
        return released if self.stopped else released + held

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
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Offsets:
    """Finds the position of each token in its text, in characters.

    Args:
        tokenizer: Tokenizer of the target, with a Rust backend.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._raw, self._num_characters = RawText(TokenDecoder.of(tokenizer)), 0

    def before(self, token_id: int) -> int:
        """Return the number of whole characters before a token, and add the token."""
        before = self._num_characters
        self._num_characters += len(self._raw.push([token_id]))
        return before
