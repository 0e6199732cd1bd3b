"""Whether a chat template shows a conversation's tools, calls of tools and their results.

Many templates know nothing of tools and say nothing when they get some: the text is only shorter. So the conversation
is rendered once more with a mark in place of each tool's name, each call's name and each result, and every mark has to
be in that text. That asks the template itself, whatever its variables are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Marked:
    """A conversation with marks.

    Attributes:
        messages: With calls and results renamed.
        tools: With other names.
        marks: What each mark stands for.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    marks: dict[str, str] = field(default_factory=dict)

    def missing(self, text: str) -> str:
        """What a rendered text leaves out, in words; empty when nothing."""
        return " and ".join(dict.fromkeys(what for each, what in self.marks.items() if each not in text))


def mark(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> Marked:
    """Put the marks in; a conversation without tools has none.

    Args:
        messages: Of any roles.
        tools: In OpenAI's form.
    """
    marks: dict[str, str] = {}

    def new(what: str) -> str:
        name = f"mark{len(marks)}of"
        marks[name] = what
        return name

    def named(value: Mapping[str, Any], what: str) -> dict[str, Any]:
        return {**value, "function": {**value["function"], "name": new(what)}}

    marked = None if tools is None else [named(each, "the tools") for each in tools]
    turns = []
    for message in messages:
        turn = dict(message)
        if turn.get("tool_calls"):
            turn["tool_calls"] = [named(each, "calls of tools") for each in turn["tool_calls"]]
        if turn["role"] == "tool":
            turn["content"] = new("results of tools")
        turns.append(turn)
    return Marked(turns, marked, marks)
