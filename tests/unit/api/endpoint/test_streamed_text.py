"""Streamed text, joined, is what the tokenizer decodes at once, for every kind of tokenizer and any ids.

Oracle: `tokenizer.decode` of all ids. The ids are random, so runs of bytes, special tokens and marks stand anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from api.endpoint.protocol.text import Offsets, TextStream

WORDS = ["a", "be", "the", "n't", "n", "n'", "t", "'", "'s", "'ve", "'v", "e", ".", ",", "!", "?", "do"]
WORDS += ["é", "\u6771", "\U0001f680", " ", "", "\ufffd"]
PIECES = ["\u2581", "\u2581\u2581", "\u2581the", "\u2581a", "x\u2581y", "\u2581.", "\u2581'", "\u2581don", *WORDS]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def fast(tokenizer: Tokenizer, **settings: bool) -> PreTrainedTokenizerFast:
    """With special and other added tokens."""
    special = [AddedToken(text, special=True) for text in ("<s>", "</s>", "<|x y|>")]
    plain = [AddedToken(text, special=False, normalized=False) for text in ("<tool>", " the end ", "\u2581added")]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def pieces(*steps: decoders.Decoder, **settings: bool) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE with bytes by name."""
    vocab = {symbol: place for place, symbol in enumerate(dict.fromkeys(["<unk>", *BYTES, *PIECES]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = steps[0] if len(steps) == 1 else decoders.Sequence(list(steps))
    return fast(tokenizer, **settings)


def unigram(**settings: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram([(symbol, -1.0) for symbol in dict.fromkeys(["<unk>", *PIECES])], unk_id=0))
    tokenizer.decoder = decoders.Metaspace()
    return fast(tokenizer, **settings)


def byte_level(*steps: decoders.Decoder) -> PreTrainedTokenizerFast:
    symbols = [*sorted(decoders_alphabet()), "Ġthe", "ĠðŁ", "ļĢ", "Ã", "not in the table \u6771"]
    vocab = {symbol: place for place, symbol in enumerate(dict.fromkeys(symbols))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), *steps]) if steps else decoders.ByteLevel()
    return fast(tokenizer, clean_up_tokenization_spaces=True)  # which BPE does not do


def decoders_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


def words(decoder: decoders.Decoder | None, **settings: bool) -> PreTrainedTokenizerFast:
    symbols = ["[UNK]", *WORDS, "##ing", "##'", "##.", "a</w>", "the</w>", "<pad>", "|"]
    vocab = {symbol: place for place, symbol in enumerate(dict.fromkeys(symbols))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    if decoder is not None:
        tokenizer.decoder = decoder
    return fast(tokenizer, **settings)


REPLACE, FUSE = decoders.Replace("\u2581", " "), decoders.Fuse()
KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama": lambda: pieces(REPLACE, decoders.ByteFallback(), FUSE, decoders.Strip(" ", 1, 0)),
    "llama, cleaned": lambda: pieces(
        *(REPLACE, decoders.ByteFallback(), FUSE, decoders.Strip(" ", 1, 0)),
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    ),
    "gemma": lambda: pieces(REPLACE, decoders.ByteFallback(), FUSE),
    "strips more": lambda: pieces(REPLACE, decoders.ByteFallback(), FUSE, decoders.Strip(" ", 3, 0)),
    "no fuse": lambda: pieces(decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")),
    "metaspace": lambda: pieces(decoders.Metaspace()),
    "metaspace, never": lambda: pieces(decoders.Metaspace(prepend_scheme="never")),
    "fused metaspace": lambda: pieces(FUSE, decoders.Metaspace()),
    "unigram": unigram,
    "unigram, cleaned": lambda: unigram(clean_up_tokenization_spaces=True),
    "byte level": byte_level,
    "byte level, fused": lambda: byte_level(FUSE, decoders.Strip(" ", 1, 0)),
    "word piece": lambda: words(decoders.WordPiece(), clean_up_tokenization_spaces=False),
    "word piece, cleaned": lambda: words(decoders.WordPiece(cleanup=False), clean_up_tokenization_spaces=True),
    "no decoder": lambda: words(None, clean_up_tokenization_spaces=True),
    "bpe": lambda: words(decoders.BPEDecoder(suffix="</w>")),
    "ctc": lambda: words(decoders.CTC()),
    "across tokens": lambda: pieces(REPLACE, FUSE, decoders.Replace(Regex(" +"), " "), decoders.Replace("a.", "b")),
    "cleaned across tokens": lambda: words(decoders.Sequence([FUSE, decoders.WordPiece()])),
}
HELD_TO_THE_END = {"across tokens", "cleaned across tokens"}


def streamed(tokenizer: PreTrainedTokenizerFast, ids: list[int], rng: random.Random, stops: list[str]) -> list[str]:
    """What each push gives, and the end."""
    stream, parts, left = TextStream(tokenizer, stops), [], list(ids)
    while left:
        count = rng.choice((1, 1, 1, 2, 5))
        parts.append(stream.push(left[:count]))
        left = left[count:]
    return [*parts, stream.finish()]


def random_ids(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[int]:
    """Any ids, one of no token among them; in half of the cases few different ones, so that patterns come up."""
    vocab = [*sorted(tokenizer.get_vocab().values()), 100_000]
    if rng.random() < 0.5:
        texts = [token_id for token_id in vocab[:-1] if not tokenizer.convert_ids_to_tokens(token_id).startswith("<0x")]
        vocab = rng.sample(texts, 6) + rng.sample(vocab, 3)
    return [rng.choice(vocab) for _ in range(rng.randrange(40))]


@pytest.mark.parametrize("kind", KINDS)
def test_joined_pieces_are_what_the_tokenizer_decodes(kind: str) -> None:
    tokenizer, rng, num_early = KINDS[kind](), random.Random(kind), 0
    for _ in range(250):
        ids = random_ids(tokenizer, rng)
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        parts = streamed(tokenizer, ids, rng, [])
        assert "".join(parts) == whole, ids
        num_early += sum(map(len, parts[:-1]))
        stop = whole[len(whole) // 2 :][:2]
        if stop:
            assert "".join(streamed(tokenizer, ids, rng, [stop])) == whole[: whole.index(stop)], (ids, stop)
    assert (num_early == 0) == (kind in HELD_TO_THE_END)


def test_the_space_after_a_special_token_stays() -> None:
    tokenizer = KINDS["llama"]()
    ids = tokenizer.convert_tokens_to_ids(["\u2581the", "</s>", "\u2581a", "<0xC3>", "<s>", "<0xA9>", "\u2581don"])
    stream = TextStream(tokenizer)
    assert [stream.push([token_id]) for token_id in ids] == ["the", "", " a", "", "", "", "é don"]
    assert stream.finish() == ""


def test_what_is_cleaned_up_is_held_until_it_is_whole() -> None:
    """One token per character, through every pattern of the clean-up, with more and with fewer spaces."""
    text = "We do n't ! It 's I 'm we 've they 're a ' b . , ?  ' ve  'tis  n't  ' 'm nn't abc 'r abc n' end"
    symbols = dict.fromkeys(text.replace(" ", "\u2581"))
    tokenizer = Tokenizer(models.Unigram([(symbol, -1.0) for symbol in ["<unk>", *symbols]], unk_id=0))
    tokenizer.decoder = decoders.Metaspace()
    made = fast(tokenizer, clean_up_tokenization_spaces=True)
    ids = made.convert_tokens_to_ids(list(text.replace(" ", "\u2581")))
    stream = TextStream(made)
    parts = [stream.push([token_id]) for token_id in ids]
    assert "".join([*parts, stream.finish()]) == made.decode(ids) == made.clean_up_tokenization(text)
    assert "".join(parts).startswith("We don't! It's I'm we've they're")


@pytest.mark.parametrize("kind", ["llama", "gemma", "byte level", "unigram", "word piece"])
def test_offsets_are_where_tokens_begin_in_the_text(kind: str) -> None:
    """Of tokens that are whole characters; special ones take no place."""
    tokenizer, rng = KINDS[kind](), random.Random(kind)
    for _ in range(50):
        vocab = [token_id for text, token_id in tokenizer.get_vocab().items() if text.isascii() and text[:2] != "<0"]
        ids = [rng.choice(vocab) for _ in range(12)]
        offsets = Offsets(tokenizer)
        for place, token_id in enumerate(ids):
            assert offsets.before(token_id) == len(tokenizer.decode(ids[:place], skip_special_tokens=True)), ids


@pytest.mark.parametrize("kind", ["llama", "metaspace", "byte level", "word piece"])
def test_an_answer_after_an_echoed_prompt_keeps_its_first_space(kind: str) -> None:
    tokenizer, rng = KINDS[kind](), random.Random(kind)
    vocab = [token_id for text, token_id in tokenizer.get_vocab().items() if text[:2] != "<0" and text.isalpha()]
    vocab = [token_id for token_id in vocab if "\ufffd" not in tokenizer.decode([token_id])]
    for _ in range(30):
        prompt, ids = [rng.choice(vocab) for _ in range(4)], [rng.choice(vocab) for _ in range(6)]
        stream = TextStream(tokenizer, after=prompt)
        parts = [stream.push([token_id]) for token_id in ids]
        whole = tokenizer.decode(prompt + ids, skip_special_tokens=True)
        assert tokenizer.decode(prompt) + "".join([*parts, stream.finish()]) == whole


@pytest.mark.parametrize(("kind", "half"), [("byte level", "Ã"), ("llama", "<0xC3>"), ("across tokens", "a")])
def test_an_answer_after_half_a_character_begins_anew(kind: str, half: str) -> None:
    tokenizer = KINDS[kind]()
    prompt, ids = tokenizer.convert_tokens_to_ids(["a", half]), tokenizer.convert_tokens_to_ids(["e", "t"])
    stream = TextStream(tokenizer, after=prompt)
    assert stream.push(ids) + stream.finish() == "et"
