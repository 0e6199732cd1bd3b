"""How a tokenizer decodes ids, as far as streams need it: which ids have no text, and when text can no longer change.

The whole text of an answer is `tokenizer.decode(ids, skip_special_tokens=True)`. A stream sends it piece by piece, so
it must hold back text that later tokens could change:

* Ids that are skipped are removed first, as in the library, so that they never separate two tokens.
* Byte tokens (`<0xE2>`) that follow one another are one run; one invalid byte makes the whole run invalid.
* `clean_up_tokenization_spaces` removes spaces, depending on the text after them.
* The text of a decoder that works across tokens in another way is sent only at the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

BYTE = re.compile(r"<0x([0-9A-Fa-f+][0-9A-Fa-f])>")  # Rust reads a plus sign before a digit too
"""A token that is one byte, in SentencePiece's notation."""
_SETTLED = 3  # characters other than spaces, before which no clean-up reaches
_FUSING = frozenset({"Fuse", "ByteLevel"})


class TokenDecoder:
    """The properties of a tokenizer that all its streams share.

    Args:
        tokenizer: Tokenizer of the target, with a Rust backend.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._backend = tokenizer.backend_tokenizer
        special = self._backend.get_added_tokens_decoder()
        self._skipped = frozenset(token_id for token_id, token in special.items() if token.special)
        self._steps = decoder_steps(tokenizer)
        self.cleans = bool(tokenizer.clean_up_tokenization_spaces) and (
            type(self._backend.model).__name__ != "BPE"
            or bool(tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output)
        )
        self._clean_up = tokenizer.clean_up_tokenization

    @classmethod
    def of(cls, tokenizer: Any) -> TokenDecoder:
        """Return the decoder of a tokenizer; it is made once."""
        found = _KNOWN.get(tokenizer)
        if found is None:
            found = _KNOWN[tokenizer] = cls(tokenizer)
        return found

    @cached_property
    def streams(self) -> bool:
        """Whether text can be sent before the end: no step after the tokens were joined looks at several characters."""
        fused = False
        for step in self._steps:
            if fused and not _goes_by_character(step):
                return False
            fused = fused or step["type"] in _FUSING
        return True

    @cached_property
    def has_runs(self) -> bool:
        """Whether byte tokens are decoded by runs."""
        return any(step["type"] == "ByteFallback" for step in self._steps)

    def shown(self, token_ids: Sequence[int]) -> list[int]:
        """Remove the ids that the library skips: special tokens, and ids outside the vocabulary."""
        return [
            token_id
            for token_id in token_ids
            if token_id not in self._skipped and self._backend.id_to_token(token_id) is not None
        ]

    def is_byte(self, token_id: int) -> bool:
        """Whether a token is part of a run of bytes."""
        return self.has_runs and BYTE.fullmatch(self._backend.id_to_token(token_id) or "") is not None

    def raw(self, token_ids: Sequence[int]) -> str:
        """Return the text before spaces are cleaned up."""
        # transformers' own `decode` adds checks that cost more than this call itself.
        return str(self._backend.decode(token_ids, skip_special_tokens=True)) if token_ids else ""

    def cleaned(self, text: str) -> str:
        """Return the text as the tokenizer's `decode` gives it."""
        return str(self._clean_up(text)) if self.cleans else text

    def num_settled(self, text: str) -> int:
        """Return the number of characters, in a text that continues, that can be cleaned up now.

        A replacement consists of a space and at most three characters, and only spaces are ever removed, so no
        replacement goes beyond three characters that are not spaces.
        """
        if not self.cleans:
            return len(text)
        for end in range(len(text), _SETTLED - 1, -1):
            if " " not in text[end - _SETTLED : end]:
                return end
        return 0


_KNOWN: WeakKeyDictionary[Any, TokenDecoder] = WeakKeyDictionary()


def decoder_steps(tokenizer: Any) -> list[dict[str, Any]]:
    """List the steps of a tokenizer's decoder in order; empty if the tokenizer has no decoder."""
    decoder = tokenizer.backend_tokenizer.decoder
    return [] if decoder is None else _steps(json.loads(decoder.__getstate__()))


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """List a decoder's steps in order."""
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for each in decoder["decoders"] for step in _steps(each)]


def _goes_by_character(step: dict[str, Any]) -> bool:
    """Whether a step on joined text leaves settled text unchanged; streams handle the stripping of ends."""
    if step["type"] == "Replace":
        return len(step["pattern"].get("String", "  ")) == 1
    return step["type"] in {"Fuse", "Strip", "Metaspace"}
