"""Draft vocabulary by frequency, by hand."""

from __future__ import annotations

from eda_service.training.vocabulary import rank_vocabulary


def ranked(answers: list[list[int]], size: int | None, vocab_size: int = 10) -> list[int] | None:
    vocab_W = rank_vocabulary(answers, size, vocab_size)
    return None if vocab_W is None else vocab_W.tolist()


def test_most_frequent_in_ascending_order() -> None:
    assert ranked([[7, 7, 7, 2], [2, 9, 5]], 2) == [2, 7]


def test_ties_go_to_the_smaller_id() -> None:
    assert ranked([[9, 3, 6]], 2) == [3, 6]


def test_unseen_tokens_fill_up_to_the_exact_size() -> None:
    assert ranked([[9, 3]], 5) == [0, 1, 2, 3, 9]


def test_the_full_vocabulary_needs_no_list() -> None:
    assert ranked([[1]], None) is None
    assert ranked([[1]], 10) is None
