"""What the demo asks the served pair: a short list of sums whose results are known, so that an answer can be checked.

They are sums of one step, and were chosen because the shipped math target gets them right; a model of 135M parameters
gets most sums of several steps wrong. The demo asks the list in its order until one answer is right, and says how many
it took; an answer to a question of somebody's own is shown and not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_FINAL = "####"  # behind it, GSM8K's answers have their result


@dataclass(frozen=True)
class Question:
    """A sum and its result; None where nobody knows it."""

    text: str
    result: int | None = None


QUESTIONS = (
    Question("A box holds 6 eggs. How many eggs are in 4 boxes?", 24),
    Question("There are 15 birds in a tree. 6 birds fly away. How many birds are left?", 9),
    Question("Ben has 3 bags with 5 marbles each. How many marbles does he have?", 15),
    Question("Lisa earns $12 an hour. How much does she earn in 5 hours?", 60),
)
"""In the order in which they are asked."""


@dataclass(frozen=True)
class Asked:
    """What came of asking.

    Attributes:
        question: The last one that was asked.
        answer: To it.
        num_asked: Questions, this one among them.
        is_right: Whether the answer has the known result; None: nobody knows it.
    """

    question: Question
    answer: str
    num_asked: int
    is_right: bool | None

    @property
    def verdict(self) -> str:
        """One sentence about the answer, no better than it is."""
        result, before = self.question.result, self.num_asked - 1
        if self.is_right is None:
            return "this question has no known result here, so the answer is not checked"
        if not self.is_right:
            return f"none of the {self.num_asked} answers was right; the last should be {result}"
        if before == 0:
            return f"{result} is right"
        return f"{result} is right; {before} {'question' if before == 1 else 'questions'} before it got a wrong answer"


def ask_until_right(questions: Sequence[Question], ask: Callable[[str], str]) -> Asked:
    """Ask one question after the other until an answer has the known result; the last one where none has.

    Args:
        questions: At least one.
        ask: Gives an answer.
    """
    for number, question in enumerate(questions, start=1):
        answer = ask(question.text)
        is_right = None if question.result is None else final_number(answer) == question.result
        asked = Asked(question, answer, number, is_right)
        if is_right is not False:
            break
    return asked


def final_number(text: str) -> Decimal | None:
    """The number that an answer ends on: behind the last `####` where there is one, else the last in the text."""
    _, found, end = text.rpartition(_FINAL)
    numbers = _NUMBER.findall(end if found else text)
    if not numbers:
        return None
    try:
        return Decimal((numbers[0] if found else numbers[-1]).replace(",", ""))
    except InvalidOperation:
        return None
