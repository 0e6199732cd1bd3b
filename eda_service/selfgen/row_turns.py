"""One turn of a conversation, in all its forms in rows, read into the message that a chat template reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eda_service.selfgen.row_error import RowError
from eda_service.selfgen.row_tools import calls_of, from_text, read_calls

Message = dict[str, Any]

_CALL = "function_call"
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), _CALL),
}
_TAKEN = "user, assistant, system or tool"
_CONTENTS = ("content", "value", "text", "parts")
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHTS = ("reasoning_content", "thinking")
_PAIRS = (("human", "assistant"), ("user", "assistant"), ("input", "output"))


def read_turns(turns: Sequence[Any]) -> list[Message]:
    """Read all turns of a conversation; a turn `{"human", "assistant"}` gives two messages.

    Raises:
        RowError: A turn has no known role, or a content that is no text.
    """
    found: list[Message] = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            raise RowError(f"each message is an object with role and content, and one is a {type(turn).__name__}")
        pair = None if {"role", "from"} & set(turn) else next((p for p in _PAIRS if set(p) <= set(turn)), None)
        if pair is None:
            found.append(_message(turn))
            continue
        if not found and text_of(turn.get("system")).strip():
            found.append(said("system", text_of(turn["system"])))
        found += [said("user", text_of(turn[pair[0]])), said("assistant", text_of(turn[pair[1]]))]
    return found


def said(role: str, content: str) -> Message:
    """Make a message with a text."""
    return {"role": role, "content": content}


def is_system(turn: Any) -> bool:
    """Whether a turn, as the row has it, is a system prompt."""
    named = turn.get("role") or turn.get("from") if isinstance(turn, Mapping) else None
    return isinstance(named, str) and _ROLES.get(named.lower()) == "system"


def check_filled(messages: Sequence[Message]) -> None:
    """Refuse an empty message where a text is needed.

    A system prompt may be empty: for templates with a default system prompt that means to use none.
    """
    for message in messages:
        may_be_empty = message["role"] in ("system", "tool") or "tool_calls" in message
        if not may_be_empty and not message["content"].strip():
            raise RowError(f"each message needs a content that is not empty, and one of {message['role']!r} has none")


def _message(turn: Mapping[str, Any]) -> Message:
    named = turn.get("role") or turn.get("from")
    if not isinstance(named, str):
        raise RowError(f"each message needs a role of {_TAKEN}")
    role = _ROLES.get(named.lower())
    if role is None:
        raise RowError(f"each message needs a role of {_TAKEN}, not {named[:32]!r}")
    content = next((turn[key] for key in _CONTENTS if turn.get(key) is not None), None)
    if role == _CALL:
        return {"role": "assistant", "content": None, "tool_calls": calls_of(from_text(content, f"a {named}"))}
    message: Message = {"role": role, "content": _result(content) if role == "tool" else text_of(content)}
    calls = read_calls(turn)
    if calls:
        if role != "assistant":
            raise RowError(f"a message of {role} calls a tool")
        message["tool_calls"] = calls
        message["content"] = None if content is None else message["content"]
    kept = ["name", *(("tool_call_id",) if role == "tool" else _THOUGHTS if role == "assistant" else ())]
    return message | {key: turn[key] for key in kept if isinstance(turn.get(key), str) and turn[key]}


def _result(content: Any) -> str:
    """Return the result of a tool: a text, or a value that is written as JSON."""
    parts = isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") in _TEXT_PARTS for p in content)
    if content is None or isinstance(content, str) or parts:
        return text_of(content)
    return json.dumps(content, ensure_ascii=False)


def text_of(content: Any) -> str:
    """Return the text of a content; parts are joined by a line end, as in vLLM.

    Raises:
        RowError: The content is no text, or has a part that is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping) and isinstance(content.get("parts"), list):  # Gemini's system instruction
        content = content["parts"]
    if not isinstance(content, list):
        raise RowError(f"each message needs a content that is a text, not a {type(content).__name__}")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind not in _TEXT_PARTS:
            raise RowError(f"a content holds a part of type {str(kind)[:32]!r}; only text is taken")
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            raise RowError("each message needs a content that is a text, and a part of one is none")
        texts.append(text)
    return "\n".join(texts)
