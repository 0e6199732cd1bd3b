"""Tools and tool calls of rows, in all their forms, read into OpenAI's form, which chat templates read.

* `tools`: a list or its JSON text; each OpenAI's `{"type": "function", "function": {...}}`, or the bare function, as
  xLAM and `functions` have it.
* Calls: `tool_calls`, OpenAI's earlier `function_call`, or ShareGPT's turn `function_call`, a JSON text. Arguments
  become an object, as transformers asks for and vLLM makes them: templates write them as JSON themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eda_service.selfgen.row_error import RowError
from eda_service.storage.inputs import bounded_json

Tool = dict[str, Any]
Tools = list[Tool]
Call = dict[str, Any]


def from_text(value: Any, what: str) -> Any:
    """Return a value, or the value that its JSON text holds.

    Raises:
        RowError: The text is not JSON.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return bounded_json.parse(value)
    except ValueError as error:
        raise RowError(f"{what} is a text that is no JSON") from error


def read_tools(row: Mapping[str, Any]) -> Tools | None:
    """Read the tools that a row offers; None if it offers none.

    Raises:
        RowError: The tools are no list of functions with names.
    """
    for key in ("tools", "functions"):
        value = from_text(row.get(key), f"`{key}`")
        if not value:
            continue
        if isinstance(value, Mapping):
            value = [value]
        if not isinstance(value, Sequence):
            raise RowError(f"`{key}` is a {type(value).__name__}, not a list of tools")
        return [_tool(from_text(each, f"one of `{key}`"), key) for each in value]
    return None


def _tool(value: Any, key: str) -> Tool:
    if not isinstance(value, Mapping):
        raise RowError(f"one of `{key}` is a {type(value).__name__}, not an object")
    function = value.get("function")
    if isinstance(function, Mapping) and _is_name(function.get("name")):
        return {"type": "function", **value}
    if function is None and _is_name(value.get("name")):
        return {"type": "function", "function": {name: each for name, each in value.items() if name != "type"}}
    raise RowError(f"one of `{key}` is no function with a name")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def read_calls(turn: Mapping[str, Any]) -> list[Call]:
    """Read the calls of an assistant's turn in OpenAI's form, in their order.

    Raises:
        RowError: A call has no name, or arguments that are no object.
    """
    value = from_text(turn.get("tool_calls"), "`tool_calls`")
    if not value:
        value = from_text(turn.get("function_call"), "`function_call`")
    return calls_of(value) if value else []


def calls_of(value: Any) -> list[Call]:
    """Return one call or several as a list."""
    several = [value] if isinstance(value, Mapping) else value
    if not isinstance(several, Sequence) or isinstance(several, str) or not several:
        raise RowError("a call of a tool is not an object, nor a list of such")
    return [_call(from_text(each, "a call of a tool")) for each in several]


def _call(value: Any) -> Call:
    if not isinstance(value, Mapping):
        raise RowError("a call of a tool is not an object")
    inner = value.get("function")
    function = inner if isinstance(inner, Mapping) else value
    if not _is_name(function.get("name")):
        raise RowError("a call of a tool names none")
    arguments = function.get("arguments")
    if arguments is None:
        arguments = function.get("parameters")
    arguments = from_text(arguments, "the arguments of a call")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise RowError(f"the arguments of a call are a {type(arguments).__name__}, not an object")
    call = {"type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}
    return {"id": value["id"], **call} if isinstance(value.get("id"), str) else call
