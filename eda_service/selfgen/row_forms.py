"""The forms in which people keep prompts, read into one: the conversation that is to be answered, and an answer.

* `{"messages": [{"role", "content"}]}`, as OpenAI's fine-tuning files and the `datasets` of TRL have it.
* `{"prompt": "text"}`, or TRL's `{"prompt": [{"role", "content"}]}`; `completion` is an answer, in either form.
* ShareGPT's `{"conversations": [{"from": "human", "value": ...}]}`.
* Alpaca's `{"instruction", "input", "output"}`, with LLaMA-Factory's `system` and `history`.
* `{"question", "answer"}`; `{"chosen": [...]}` of pairs of preferences.

A conversation that ends with the assistant is the file that the target was tuned on: its last answer is dropped from
the prompt, as the target answers itself, and kept as the reference. `developer` is read as `system`, which is what
templates of open models know. Parts of content are joined by a line end, as vLLM joins them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Messages = list[dict[str, str]]

_ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
_TOOL_ROLES = ("tool", "function", "function_call", "observation", "ipython")
_TEXT_PARTS = ("text", "input_text", "output_text")
_ANSWERS = ("reference", "completion", "response", "output", "answer")
_KNOWN = "no messages, prompt, conversations, instruction or question"


class RowError(ValueError):
    """Why a row holds no prompt; the message never repeats what it says, only its keys and roles."""


def read_form(row: Any) -> tuple[Messages, str | None]:
    """One row, in whichever form.

    Args:
        row: As parsed from JSON, or a row of a data set.

    Returns:
        (messages that end with the user's, the row's own answer if it has one).

    Raises:
        RowError: It is in no known form, or holds what is not taken: tools, images, an empty message.
    """
    if not isinstance(row, Mapping):
        raise RowError(f"a {type(row).__name__}, not an object")
    if row.get("tools"):
        raise RowError("it has `tools`, which are not passed to the target's template")
    messages = [_message(each) for each in _turns(row)]
    last = max((index for index, each in enumerate(messages) if each["role"] == "user"), default=-1)
    answers, messages = messages[last + 1 :], messages[: last + 1]
    if not messages or any(each["role"] != "assistant" for each in answers):
        raise RowError("the last message is not the user's, nor an answer to it, so there is nothing to answer")
    return messages, _answer(row) or (answers[0]["content"] if answers else None)


def _turns(row: Mapping[str, Any]) -> list[Any]:
    """The turns as the row has them, oldest first."""
    for key in ("messages", "conversations", "conversation"):
        if row.get(key) is not None:
            return _system(row, _filled(row[key], key))
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        return _filled(prompt, "prompt")
    if isinstance(prompt, str):
        return _system(row, [_turn("user", prompt)])
    if isinstance(row.get("instruction"), str):
        more = row.get("input")
        text = row["instruction"] + (f"\n{more}" if isinstance(more, str) and more.strip() else "")
        return _system(row, [*_history(row.get("history")), _turn("user", text)])
    if isinstance(row.get("question"), str):
        return _system(row, [_turn("user", row["question"])])
    if row.get("chosen") is not None and not isinstance(row["chosen"], str):
        return _filled(row["chosen"], "chosen")
    raise RowError(f"{_KNOWN}; its keys are {[str(key)[:32] for key in sorted(row, key=str)[:8]]}")


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _filled(turns: Any, key: str) -> list[Any]:
    if isinstance(turns, str) or not isinstance(turns, Sequence) or not turns:
        raise RowError(f"`{key}` is not a list of messages")
    return list(turns)


def _system(row: Mapping[str, Any], turns: list[Any]) -> list[Any]:
    """With the row's own system prompt before them, unless they have one."""
    text = row.get("system")
    if not isinstance(text, str) or not text.strip():
        return turns
    first = turns[0]
    has_one = isinstance(first, Mapping) and first.get("role", first.get("from")) in ("system", "developer")
    return turns if has_one else [_turn("system", text), *turns]


def _history(pairs: Any) -> list[dict[str, str]]:
    """LLaMA-Factory's earlier rounds, each a question and its answer."""
    if not pairs:
        return []
    turns = []
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not (isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(each, str) for each in pair)):
            raise RowError("`history` is not a list of pairs of texts")
        turns += [_turn("user", pair[0]), _turn("assistant", pair[1])]
    return turns


def _message(turn: Any) -> dict[str, str]:
    """One turn with a role of three and a text."""
    if not isinstance(turn, Mapping):
        raise RowError(f"each message is an object with role and content, and one is a {type(turn).__name__}")
    is_sharegpt = "role" not in turn and "from" in turn
    named, content = (turn["from"], turn.get("value")) if is_sharegpt else (turn.get("role"), turn.get("content"))
    if not isinstance(named, str):
        raise RowError(f"each message needs a role of {sorted(set(_ROLES.values()))}")
    if named in _TOOL_ROLES or turn.get("tool_calls") or turn.get("function_call"):
        raise RowError("a message calls a tool or is a tool's, which are not passed to the target's template")
    if named not in _ROLES:
        raise RowError(f"each message needs a role of {sorted(set(_ROLES.values()))}, not {named[:32]!r}")
    text = _text(content)
    if not text.strip():
        raise RowError(f"each message needs a content that is not empty, and one of {named!r} has none")
    return _turn(_ROLES[named], text)


def _text(content: Any) -> str:
    """A content's text; parts are joined by a line end."""
    if content is None or isinstance(content, str):
        return content or ""
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


def _answer(row: Mapping[str, Any]) -> str | None:
    """The answer that stands beside the conversation."""
    for key in _ANSWERS:
        value = row.get(key)
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            value = value[0].get("content")  # TRL's `completion`
        if isinstance(value, str) and value.strip():
            return value
    return None
