"""The bytes and the text of single tokens, as `logprobs` report them.

A single token need not be valid text: half a character has bytes only, so OpenAI's API reports both. The two kinds of
vocabulary in use write bytes differently: byte-level BPE maps each byte to a printable character, SentencePiece writes
a space as U+2581 and other bytes as `<0xE2>`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from api.endpoint.protocol.token_decoder import BYTE, decoder_steps

_SPACE = "\u2581"


@cache
def _byte_of_symbol() -> dict[str, int]:
    """Build GPT-2's table: printable bytes stand for themselves, the others for characters from U+0100 on, in order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}


class TokenText:
    """Finds the text and bytes of tokens; each token is computed once.

    Args:
        tokenizer: Tokenizer of the target, with a Rust backend.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self._size = tokenizer, 1 + max(tokenizer.get_vocab().values())
        self._added: dict[int, str] = {token_id: text for text, token_id in tokenizer.get_added_vocab().items()}
        self._is_byte_level = any(step["type"] == "ByteLevel" for step in decoder_steps(tokenizer))
        self._known: dict[int, tuple[str, bytes]] = {}

    def of(self, token_id: int) -> tuple[str, bytes]:
        """Return a token's text, with U+FFFD for invalid bytes, and its bytes; both are empty for unknown tokens."""
        if not 0 <= token_id < self._size:
            return "", b""
        found = self._known.get(token_id)
        if found is None:
            raw = self._bytes(token_id)
            found = self._known[token_id] = (raw.decode("utf-8", "replace"), raw)
        return found

    def _bytes(self, token_id: int) -> bytes:
        if token_id in self._added:
            return self._added[token_id].encode()
        symbols = self.tokenizer.convert_ids_to_tokens(token_id) or ""  # ids need not be contiguous
        if self._is_byte_level:
            table = _byte_of_symbol()
            return b"".join(bytes([table[each]]) if each in table else each.encode() for each in symbols)
        byte = BYTE.fullmatch(symbols)
        return bytes([int(byte[1], 16)]) if byte else str(symbols).replace(_SPACE, " ").encode()
