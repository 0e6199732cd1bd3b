"""Tools, calls and results in the ways that rows have them, all read into OpenAI's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eda_service.pipeline.prepare import read_prompt_file, write_prompt_file
from eda_service.selfgen.prompts import Prompt, read_jsonl
from eda_service.selfgen.row_error import RowError
from eda_service.selfgen.row_forms import read_form

FUNCTION = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {}}}}
TOOL = {"type": "function", "function": FUNCTION}
USER = {"role": "user", "content": "1 and 2?"}
ARGUMENTS = {"b": 2, "a": 1}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": ARGUMENTS}}
BARE = {"type": "function", "function": CALL["function"]}
AS_TEXT = {**CALL, "function": {"name": "add", "arguments": json.dumps(ARGUMENTS)}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "3", "tool_call_id": "c1"}
END = {"role": "assistant", "content": "It is 3."}
SHARE = [
    {"from": "human", "value": "1 and 2?"},
    {"from": "function_call", "value": json.dumps({"name": "add", "arguments": ARGUMENTS})},
    {"from": "observation", "value": "3"},
    {"from": "gpt", "value": "It is 3."},
]
SHARED = [USER, {"role": "assistant", "content": None, "tool_calls": [BARE]}, {"role": "tool", "content": "3"}]


@pytest.mark.parametrize(
    ("row", "messages", "reference"),
    [
        ({"messages": [USER, CALLS, RESULT, END], "tools": [TOOL]}, [USER, CALLS, RESULT], "It is 3."),
        (
            {"messages": [USER, {**CALLS, "tool_calls": [AS_TEXT]}, RESULT], "tools": [TOOL]},
            [USER, CALLS, RESULT],
            None,
        ),
        ({"messages": [USER, CALLS], "tools": json.dumps([TOOL])}, [USER], None),
        ({"messages": [USER, CALLS], "tools": [json.dumps(TOOL)]}, [USER], None),
        ({"messages": [USER, END], "functions": [FUNCTION]}, [USER], "It is 3."),
        ({"messages": [USER, END], "tools": [{"type": "function", **FUNCTION}]}, [USER], "It is 3."),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": None, "function_call": AS_TEXT["function"]},
                    {"role": "function", "name": "add", "content": "3"},
                    END,
                ],
                "functions": [FUNCTION],
            },
            [USER, SHARED[1], {"role": "tool", "content": "3", "name": "add"}],
            "It is 3.",
        ),
        ({"conversations": SHARE, "tools": json.dumps([FUNCTION])}, SHARED, "It is 3."),
        ({"conversations": SHARE[:2], "tools": json.dumps([FUNCTION])}, [USER], None),
        (
            {"query": "1 and 2?", "tools": json.dumps([FUNCTION]), "answers": json.dumps([BARE["function"]])},
            [USER],
            None,
        ),
        ({"prompt": [USER], "completion": [CALLS], "tools": [TOOL]}, [USER], None),
    ],
    ids=[
        *("OpenAI", "arguments as text", "tools as text", "a tool as text", "functions", "flat", "function_call"),
        *("ShareGPT", "ShareGPT that ends with the call", "xLAM", "TRL"),
    ],
)
def test_tools_in_the_ways_that_rows_have_them(row: dict[str, Any], messages: list[Any], reference: str | None) -> None:
    found = read_form(row)
    assert (found.messages, found.tools, found.reference) == (messages, [TOOL], reference)


def test_tools_that_are_a_part_of_the_texts_stay_there() -> None:
    """ToolACE: the system prompt lists the tools and a call is a text."""
    turns = [{"from": "user", "value": "q"}, {"from": "assistant", "value": "[f(x=1)]"}, {"from": "tool", "value": "3"}]
    found = read_form({"system": "You have f.", "conversations": turns})
    assert found.tools is None
    assert [each["role"] for each in found.messages] == ["system", "user", "assistant", "tool"]
    assert found.messages[2] == {"role": "assistant", "content": "[f(x=1)]"}


def test_what_a_tool_returns_may_be_a_value_and_may_be_nothing() -> None:
    row = {"messages": [USER, CALLS, {"role": "tool", "content": {"é": [1]}}, CALLS, {"role": "tool", "content": ""}]}
    assert [each["content"] for each in read_form(row).messages if each["role"] == "tool"] == ['{"é": [1]}', ""]


def test_a_call_without_arguments_has_none() -> None:
    call = {"name": "now", "arguments": ""}
    row = {"messages": [USER, {"role": "assistant", "tool_calls": [call]}, RESULT]}
    assert read_form(row).messages[1]["tool_calls"][0]["function"] == {"name": "now", "arguments": {}}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER], "tools": "add(a, b)"}, "`tools` is a text that is no JSON"),
        ({"messages": [USER], "tools": 5}, "`tools` is a int, not a list"),
        ({"messages": [USER], "tools": [5]}, "one of `tools` is a int, not an object"),
        ({"messages": [USER], "tools": [{"type": "web_search"}]}, "one of `tools` is no function with a name"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": ["x"]}, RESULT]}, "is a text that is no JSON"),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"id": "c"}]}, RESULT]},
            "a call of a tool names none",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1"}]}, RESULT]},
            "the arguments of a call is a text that is no JSON",
        ),
        (
            {"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": [1]}]}, RESULT]},
            "the arguments of a call are a list, not an object",
        ),
        ({"messages": [{**USER, "tool_calls": [CALL]}]}, "a message of user calls a tool"),
        ({"messages": [RESULT]}, "nothing to answer"),
        (
            {"messages": [{"role": "system", "content": "<tools>[]</tools>"}, USER], "tools": [TOOL]},
            "the tools written out already",
        ),
        (
            {"messages": [USER, CALLS, {"role": "tool", "content": "<tool_response>3</tool_response>"}]},
            "a tool's result is written in a chat template already",
        ),
    ],
)
def test_tools_that_cannot_be_read_say_why(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError, match=reason):
        read_form(row)


def test_what_stands_beside_the_messages_is_kept_in_the_prompt_file(tmp_path: Path) -> None:
    rows = [
        {"messages": [USER], "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}, "reference": "3"},
        {"messages": [USER]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_jsonl(tmp_path / "rows.jsonl")
    assert [each.tools for each in found] == [[TOOL], None]
    assert found[0].template_kwargs == {"enable_thinking": False}
    write_prompt_file(tmp_path / "prompts.jsonl", found)
    assert read_prompt_file(tmp_path / "prompts.jsonl") == found
    assert found[1].as_dict() == {"id": "row-0000002", "messages": [USER]}  # as versions before wrote it


def test_equal_messages_with_other_tools_are_two_prompts() -> None:
    other = {"type": "function", "function": {**FUNCTION, "name": "sub"}}
    a, b, same = (Prompt(name, [USER], tools=tools) for name, tools in (("a", [TOOL]), ("b", [other]), ("c", [TOOL])))
    assert a.content == same.content
    assert len({a.content, b.content, Prompt("d", [USER]).content}) == 3
