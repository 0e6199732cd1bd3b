"""Single tokens as bytes and text, in both ways that vocabularies write bytes. Oracle: the tokenizers' own decoding."""

from __future__ import annotations

from tiny_models import build_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from api.endpoint.protocol.token_text import TokenText

TEXT = "naïve café – 東京 🚀\n\tdone\x00\xad"


def byte_level() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def sentence_piece() -> PreTrainedTokenizerFast:
    """Llama 2's kind: U+2581 for spaces, bytes by name."""
    symbols = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "d", "o", "n", "e", "\u2581done"]
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_bytes_of_byte_level_tokens_add_up() -> None:
    tokenizer = byte_level()
    tokens = [TokenText(tokenizer).of(token) for token in tokenizer(TEXT)["input_ids"]]
    assert b"".join(raw for _, raw in tokens) == TEXT.encode()
    assert all(len(raw) == 1 for _, raw in tokens)
    assert [text for text, raw in tokens if raw[0] >= 0x80] == ["\ufffd"] * sum(byte >= 0x80 for byte in TEXT.encode())


def test_sentence_piece_spaces_and_bytes() -> None:
    tokenizer = sentence_piece()
    vocab, token_text = tokenizer.get_vocab(), TokenText(tokenizer)
    assert token_text.of(vocab["\u2581done"]) == (" done", b" done")
    assert [token_text.of(vocab[f"<0x{byte:02X}>"])[1] for byte in "é".encode()] == [b"\xc3", b"\xa9"]
    assert token_text.of(vocab["<0x0A>"]) == ("\n", b"\n")


def test_added_tokens_are_their_own_text() -> None:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken("Ġodd<é>")])  # not in the table's alphabet: no bytes of byte-level symbols
    vocab, token_text = tokenizer.get_vocab(), TokenText(tokenizer)
    assert token_text.of(vocab["<|im_end|>"])[0] == "<|im_end|>"
    assert token_text.of(vocab["Ġodd<é>"]) == ("Ġodd<é>", "Ġodd<é>".encode())


def test_every_token_of_the_tiny_vocabulary_decodes_as_the_tokenizer_does() -> None:
    tokenizer = build_tokenizer()
    token_text = TokenText(tokenizer)
    for token in tokenizer.get_vocab().values():
        assert token_text.of(token)[0] == tokenizer.decode([token])
    for beyond in (100_000, -1, 10**30):  # a row the target's head is padded with; what a caller made up
        assert token_text.of(beyond) == ("", b"")
    assert len(token_text._known) == len(tokenizer.get_vocab())
