"""The demo's questions: an answer counts as right by its number alone, and what it took is said."""

from __future__ import annotations

from decimal import Decimal

import pytest

from eda_service.cli.demo.demo_questions import QUESTIONS, Question, ask_until_right, final_number

LIST = (Question("first", 72), Question("second", 24), Question("third", 8))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48/2=<<48/2=24>>24 clips\n#### 72", Decimal(72)),
        ("#### 12\nthen\n#### 72 clips, not 5", Decimal(72)),
        ("She sold 48 + 24 = 72 clips.", Decimal(72)),
        ("It is $1,250.50", Decimal("1250.50")),
        ("-3", Decimal(-3)),
        ("It was 5 before\n#### none", None),
        ("no number", None),
        ("", None),
    ],
)
def test_the_number_that_an_answer_ends_on(text: str, number: Decimal | None) -> None:
    assert final_number(text) == number


def test_the_list_is_asked_until_one_is_right() -> None:
    answers = {"first": "#### 12", "second": "It is 24.", "third": "never asked"}
    asked = ask_until_right(LIST, answers.__getitem__)
    assert (asked.question.text, asked.num_asked, asked.is_right) == ("second", 2, True)
    assert asked.verdict == "24 is right; 1 question before it got a wrong answer"
    assert ask_until_right(LIST, lambda _: "72").verdict == "72 is right"


def test_nothing_is_claimed_that_is_not_so() -> None:
    asked = ask_until_right(LIST, lambda _: "724")
    assert (asked.num_asked, asked.is_right) == (3, False)
    assert asked.verdict == "none of the 3 answers was right; the last should be 8"
    own = ask_until_right([Question("how are you?")], lambda _: "72")
    assert (own.num_asked, own.is_right) == (1, None)
    assert "not checked" in own.verdict


def test_the_shipped_questions_have_results() -> None:
    assert all(question.result is not None for question in QUESTIONS)
    assert len({question.text for question in QUESTIONS}) == len(QUESTIONS)
