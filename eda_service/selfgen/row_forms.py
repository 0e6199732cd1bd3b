"""Reading of the common row forms of prompt files into one form: the conversation to be answered, and an answer.

docs/reference/jobs.md has the table of all forms. A conversation that ends with the assistant is one that the target
was tuned on: its last answer is removed from the prompt, because the target answers itself, and kept as the reference.
`developer` is read as `system`, which the templates of open models know. A row that could be read in two ways, or would
lose a part, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eda_service.selfgen.row_error import RowError
from eda_service.selfgen.row_tools import Tools, from_text, read_tools
from eda_service.selfgen.row_turns import Message, check_filled, is_system, read_turns, said, text_of

_LISTS = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "contents")
_TEXTS = ("prompt", "instruction", "question", "query", "problem", "input", "inputs")
_BESIDE = ("input", "context", "passage", "document", "documents", "choices", "options")
_SYSTEMS = ("system", "system_prompt", "systemInstruction", "system_instruction")
_ANSWERS = (
    *("reference", "completion", "response", "output", "answer", "solution", "targets"),
    *("chosen", "preferred_output"),
)
_NESTED = ("input", "body")  # the forms of OpenAI's preferences and batches
_MARKUP = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "\n\nHuman:")
_KWARGS = "chat_template_kwargs"
_OWN_VARIABLES = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize")
)
_KNOWN = "no messages, prompt, conversations, instruction or question"


@dataclass(frozen=True)
class ReadRow:
    """The content of a row.

    Attributes:
        form: Key that the conversation was found under.
        messages: Messages up to the place of the assistant's answer.
        reference: Answer of the row, if it has one that is a text.
        tools: Tools that the target may call, in OpenAI's form.
        template_kwargs: Additional variables of the chat template.
    """

    form: str
    messages: list[Message]
    reference: str | None = None
    tools: Tools | None = None
    template_kwargs: dict[str, Any] | None = None


def read_form(row: Any) -> ReadRow:
    """Read one row in any known form.

    Args:
        row: Row parsed from JSON, or a row of a data set.

    Raises:
        RowError: The row is in no known form, or holds something that is not supported: images, an empty message.
    """
    if not isinstance(row, Mapping):
        raise RowError(f"a {type(row).__name__}, not an object")
    row = _unnested(row)
    form, turns = _turns(row)
    messages = read_turns(turns)
    last = max((i for i, each in enumerate(messages) if each["role"] != "assistant"), default=-1)
    answers, messages = messages[last + 1 :], messages[: last + 1]
    if not any(each["role"] == "user" for each in messages) or messages[-1]["role"] == "system":
        raise RowError("the last message is not the user's, nor an answer to it, so there is nothing to answer")
    check_filled(messages)
    tools = read_tools(row)
    _check_not_written_out(messages, tools)
    return ReadRow(form, messages, _reference(row, answers), tools, _template_kwargs(row))


def _unnested(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge in the keys of a request that a row wraps."""
    for key in _NESTED:
        inner = row.get(key)
        if isinstance(inner, Mapping) and inner.get("messages") is not None and row.get("messages") is None:
            return {**{name: value for name, value in row.items() if name != key}, **inner}
    return row


def _turns(row: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Return the form's key, and the turns as the row has them, oldest first."""
    for key in _LISTS:
        if not _is_empty(row.get(key)) or row.get(key) == []:
            if not _is_empty(row.get("documents")):
                raise RowError(f"`documents` stand beside `{key}`, which are not passed to the target's template")
            return key, _system(row, _filled(row[key], key))
    if isinstance(row.get("data"), list):
        return "data", _system(row, _alternating(row["data"]))
    if isinstance(row.get("prompt"), list):
        return "prompt", _system(row, _filled(row["prompt"], "prompt"))
    for key in _TEXTS:
        if isinstance(row.get(key), str):
            return key, _system(row, [*_history(row.get("history")), said("user", _asked(row, key))])
    if isinstance(row.get("chosen"), list):
        return "chosen", _system(row, _filled(row["chosen"], "chosen"))
    raise RowError(_unknown(row))


def _unknown(row: Mapping[str, Any]) -> str:
    """Return the reason why a row is in no form; some well-known forms get a reason of their own."""
    if "message_tree_id" in row or "parent_id" in row:
        return "it is a part of an OASST message tree; write each of its threads as `messages`"
    if isinstance(row.get("chosen"), str):
        return "`chosen` is one text in which its speakers are written; give `prompt` and `chosen`, or `messages`"
    if isinstance(row.get("text"), str):
        return "`text` is one text, in which nothing says where the answer begins; give `prompt` or `messages`"
    for key in _TEXTS:
        if not _is_empty(row.get(key)):
            return f"`{key}` is of type {type(row[key]).__name__}; it must be a text in quotes"
    return f"{_KNOWN}; its keys are {[str(key)[:32] for key in sorted(row, key=str)[:8]]}"


def _filled(turns: Any, key: str) -> list[Any]:
    if isinstance(turns, str) and turns.lstrip().startswith("["):
        turns = from_text(turns, f"`{key}`")
    if isinstance(turns, str) or not isinstance(turns, Sequence) or not turns:
        raise RowError(f"`{key}` is not a list of messages")
    if all(isinstance(each, str) for each in turns):
        raise RowError(f"`{key}` are texts without roles; write each as role and content")
    return list(turns)


def _alternating(texts: list[Any]) -> list[Any]:
    """Read UltraChat's `data`: the user's and the assistant's texts in turn."""
    if not texts or not all(isinstance(each, str) for each in texts):
        raise RowError("`data` is not a list of texts; if it holds the rows, write each on a line of its own")
    return [said("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]


def _asked(row: Mapping[str, Any], key: str) -> str:
    """Return the user's text with the text that belongs to it: Alpaca's `input`, Dolly's `context`."""
    text = str(row[key])
    mark = next((each for each in _MARKUP if each in text), None) if key == "prompt" else None
    if mark is not None:
        raise RowError(f"`prompt` is written in a chat template already ({mark.strip()}); give `messages`")
    parts = [text]
    others = _TEXTS[: _TEXTS.index("input")] if "instruction" in row else ()
    for name in (*others, *_BESIDE):
        more = row.get(name)
        if name == key or _is_empty(more):
            continue
        if key != "instruction" or name not in ("input", "context"):
            raise RowError(f"`{name}` stands beside `{key}`, and nothing says how they belong together; join them")
        if not isinstance(more, str):
            raise RowError(f"`{name}` is a {type(more).__name__}, not a text")
        parts += [more] if more.strip() else []
    return "\n".join(parts)


def _is_empty(value: Any) -> bool:
    """Whether a cell is empty; pandas writes empty cells as NaN."""
    return value is None or value in ("", []) or (isinstance(value, float) and math.isnan(value))


def _system(row: Mapping[str, Any], turns: list[Any]) -> list[Any]:
    """Put the row's own system prompt before the turns, unless they have one."""
    value = next((row[key] for key in _SYSTEMS if row.get(key)), None)
    text = text_of(None if _is_empty(value) else value)
    if not text.strip() or is_system(turns[0]):
        return turns
    return [said("system", text), *turns]


def _history(pairs: Any) -> list[Message]:
    """Read LLaMA-Factory's earlier rounds, each a question and its answer."""
    if not pairs:
        return []
    turns = []
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not (isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(each, str) for each in pair)):
            raise RowError("`history` is not a list of pairs of texts")
        turns += [said("user", pair[0]), said("assistant", pair[1])]
    return turns


def _check_not_written_out(messages: Sequence[Message], tools: Tools | None) -> None:
    """Refuse content that a template would write a second time."""
    for message in messages:
        text = message["content"] or ""
        if tools and message["role"] == "system" and "<tools>" in text:
            raise RowError("its system prompt has the tools written out already (`<tools>`), beside `tools`; drop one")
        if message["role"] == "tool" and "<tool_response>" in text:
            raise RowError("a tool's result is written in a chat template already (`<tool_response>`); give it bare")


def _template_kwargs(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read TRL's `chat_template_kwargs`."""
    value = from_text(row.get(_KWARGS), f"`{_KWARGS}`")
    if not value:
        return None
    if not isinstance(value, Mapping):
        raise RowError(f"`{_KWARGS}` is a {type(value).__name__}, not an object")
    taken = sorted(_OWN_VARIABLES & set(value))
    if taken:
        raise RowError(f"`{_KWARGS}` names {taken[0]!r}, which the row or the service gives")
    return dict(value)


def _reference(row: Mapping[str, Any], answers: Sequence[Message]) -> str | None:
    """Return the row's own answer if it is a text: the one beside the conversation, else the one that ends it."""
    if row.get("label") is False:  # KTO's label: an answer that is not wanted
        return None
    for key in _ANSWERS:
        value = row.get(key)
        last = value[-1] if isinstance(value, list) and value else value
        if isinstance(last, Mapping):  # TRL's, also with its prompt; LLaMA-Factory's has `value`
            value = None if last.get("tool_calls") else last.get("content", last.get("value"))
        if isinstance(value, str) and value.strip():
            return value
    text = answers[0]["content"] if answers and "tool_calls" not in answers[0] else None
    return text if text and text.strip() else None
