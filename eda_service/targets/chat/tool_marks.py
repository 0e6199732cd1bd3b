"""Whether a chat template renders a conversation's tools, tool calls and their results.

Many templates ignore tools without an error: the text is only shorter. So the conversation is rendered once more with a
mark in place of each tool's name, each call's name and each result, and every mark must be in that text. This tests the
template itself, whatever names its variables have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Marked:
    """A conversation with marks.

    Attributes:
        messages: Messages with marks in place of names and results.
        tools: Tools with marks in place of their names.
        marks: Description of what each mark replaces.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    marks: dict[str, str] = field(default_factory=dict)

    def missing(self, text: str) -> str:
        """Describe the parts that a rendered text leaves out; empty if it has all."""
        return " and ".join(dict.fromkeys(what for each, what in self.marks.items() if each not in text))


def mark(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> Marked:
    """Put the marks in; a conversation without tools has none.

    Args:
        messages: Messages of any roles.
        tools: Tools in OpenAI's form.
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
