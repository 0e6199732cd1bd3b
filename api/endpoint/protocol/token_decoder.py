"""A tokenizer's way from ids to text, as far as a stream must know it: which ids are no text, and when text is certain.

The whole of an answer's text is `tokenizer.decode(ids, skip_special_tokens=True)`. A stream gives it piece by piece,
so it must not say what later tokens change:

* Ids that are skipped come off first, as in the library, so that they stand between no two tokens.
* Byte tokens (`<0xE2>`) that follow one another are one run, and a byte that makes it no text spoils all of it.
* `clean_up_tokenization_spaces` takes spaces away before what follows them.
* A decoder that works across tokens in another way gives its text at the end only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

BYTE = re.compile(r"<0x([0-9A-Fa-f+][0-9A-Fa-f])>")  # Rust reads a plus sign before a digit too
"""A token that is one byte, as SentencePiece writes it."""
_SETTLED = 3  # characters other than spaces, before which no clean-up reaches
_FUSING = frozenset({"Fuse", "ByteLevel"})


class TokenDecoder:
    """What streams of one tokenizer share.

    Args:
        tokenizer: The target's, with a Rust backend.
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
        """The tokenizer's; made once."""
        found = _KNOWN.get(tokenizer)
        if found is None:
            found = _KNOWN[tokenizer] = cls(tokenizer)
        return found

    @cached_property
    def streams(self) -> bool:
        """Whether text can come before the end: no step after the tokens were fused looks at several characters."""
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
        """Without those that the library skips: special ones, and those that the vocabulary does not have."""
        return [
            token_id
            for token_id in token_ids
            if token_id not in self._skipped and self._backend.id_to_token(token_id) is not None
        ]

    def is_byte(self, token_id: int) -> bool:
        """Whether it is part of a run of bytes."""
        return self.has_runs and BYTE.fullmatch(self._backend.id_to_token(token_id) or "") is not None

    def raw(self, token_ids: Sequence[int]) -> str:
        """Text before it is cleaned up."""
        # transformers' own `decode` adds checks that cost more than this call itself.
        return str(self._backend.decode(token_ids, skip_special_tokens=True)) if token_ids else ""

    def cleaned(self, text: str) -> str:
        """Text as the tokenizer gives it."""
        return str(self._clean_up(text)) if self.cleans else text

    def num_settled(self, text: str) -> int:
        """Characters of a text that is to go on that can be cleaned up by themselves.

        What is replaced is a space and at most three characters, and nothing but spaces is ever taken away: no
        replacement goes beyond three characters that are no spaces.
        """
        if not self.cleans:
            return len(text)
        for end in range(len(text), _SETTLED - 1, -1):
            if " " not in text[end - _SETTLED : end]:
                return end
        return 0


_KNOWN: WeakKeyDictionary[Any, TokenDecoder] = WeakKeyDictionary()


def decoder_steps(tokenizer: Any) -> list[dict[str, Any]]:
    """What a tokenizer's decoder does, in order; nothing where there is none."""
    decoder = tokenizer.backend_tokenizer.decoder
    return [] if decoder is None else _steps(json.loads(decoder.__getstate__()))


def _steps(decoder: dict[str, Any]) -> list[dict[str, Any]]:
    """A decoder's steps in order."""
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for each in decoder["decoders"] for step in _steps(each)]


def _goes_by_character(step: dict[str, Any]) -> bool:
    """Whether a step on fused text leaves what is certain as it is; stripping its ends does, as streams know."""
    if step["type"] == "Replace":
        return len(step["pattern"].get("String", "  ")) == 1
    return step["type"] in {"Fuse", "Strip", "Metaspace"}
