"""Tokens to text: whole characters, stop strings over token borders, nothing lost."""

from __future__ import annotations

import random

import pytest
from tiny_models import build_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from api.endpoint.protocol.text import TextStream


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, so that a character of several bytes arrives in pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def in_pieces(ids: list[int], seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    pieces = []
    while ids:
        length = rng.randint(1, 4)
        pieces.append(ids[:length])
        ids = ids[length:]
    return pieces


@pytest.mark.parametrize("seed", range(5))
def test_pieces_add_up_and_never_hold_half_a_character(seed: int) -> None:
    tokenizer, text = byte_tokenizer(), "naïve café – 東京 🚀 done"
    stream = TextStream(tokenizer)
    parts = [stream.push(piece) for piece in in_pieces(tokenizer(text)["input_ids"], seed)]
    assert "".join([*parts, stream.finish()]) == text
    assert all("\ufffd" not in part for part in parts)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stop", ["the", "user and", "r a", "🚀", "nt"])
def test_the_text_ends_before_the_first_stop(seed: int, stop: str) -> None:
    tokenizer, text = byte_tokenizer(), "ask the other user and the assistant 🚀 now"
    stream = TextStream(tokenizer, [stop, "never seen"])
    parts = [stream.push(piece) for piece in in_pieces(tokenizer(text)["input_ids"], seed)]
    assert stream.stopped
    assert "".join([*parts, stream.finish()]) == text[: text.index(stop)]


def test_a_stop_that_does_not_come_is_given_back() -> None:
    tokenizer = build_tokenizer()
    stream = TextStream(tokenizer, ["user!"])
    first = stream.push(tokenizer("the user", add_special_tokens=False)["input_ids"])
    assert "user" not in first  # it might have become the stop string
    assert first + stream.finish() == "the user"
    assert not stream.stopped


def test_bytes_that_never_become_a_character_come_at_the_end() -> None:
    tokenizer = byte_tokenizer()
    stream = TextStream(tokenizer)
    assert stream.push(tokenizer("a🚀")["input_ids"][:3]) == ""
    assert stream.finish() == "a\ufffd"
