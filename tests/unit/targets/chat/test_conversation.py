"""Conversations as clients send them, in the form in which vLLM gives them to chat templates.

Oracle: vLLM's rules written out by hand (0.32, `renderers/chat_utils.py` and `renderers/hf.py`), rendered by
transformers' own `apply_chat_template`.
"""

from __future__ import annotations

from typing import Any

import pytest
from tiny_models import CHAT_TEMPLATE, build_tokenizer
from transformers import PreTrainedTokenizerFast

from eda_service.errors import RequestError, TargetIncompatibleError, UnsupportedParameterError
from eda_service.targets.chat.conversation import TemplateOptions, ToolCall, Turn, render_turns
from eda_service.targets.chat.templates import RENDERER

PARTS = "{% for m in messages %}{{ m.role }}:{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
DUMP = "{{ messages | tojson }}|{{ tools | tojson }}|{{ documents | tojson }}|{{ enable_thinking }}|"
DUMP += "{{ reasoning_effort }}|{{ add_generation_prompt }}{# tool_calls 'tool' content #}"
ASKED = Turn("user", ("who", "is it?"))
TOOL = {"type": "function", "function": {"name": "f", "description": None, "parameters": {"type": "object"}}}


def tokenizer_of(template: str | dict[str, str]) -> PreTrainedTokenizerFast:
    made = build_tokenizer()
    made.chat_template = template
    return made


def ids_of(template: str, messages: list[dict[str, Any]], **variables: Any) -> list[int]:
    """What transformers makes of messages that are in vLLM's form."""
    made = build_tokenizer()
    variables = {"add_generation_prompt": True, **variables}
    return list(made.apply_chat_template(messages, chat_template=template, return_dict=False, **variables))


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        (CHAT_TEMPLATE, False),
        (PARTS, True),
        ("{% for m in messages %}{% for p in m['content'] | list %}{{ p }}{% endfor %}{% endfor %}", True),
        ("{% for m in messages %}{% set content = m.content %}{% for p in content %}{% endfor %}{% endfor %}", True),
        ("{% set rest = messages[1:] %}{% for m in rest %}{% for p in m.content %}{% endfor %}{% endfor %}", True),
        (
            "{% macro show(c) %}{% for p in c %}{{ p.text }}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
            True,
        ),
        (
            "{% macro show(c) %}{% for p in c %}{{ p.text }}{% endfor %}{% endmacro %}"
            "{% for m in messages %}{{ show(c=m['content']) }}{% endfor %}",
            True,
        ),
        ("{% macro f(content) %}{% for p in content %}{% endfor %}{% endmacro %}{{ messages }}", False),
        ("{% for m in messages %}{% for c in m.tool_calls %}{{ m.content }}{% endfor %}{% endfor %}", False),
        ("{% for m in others %}{% for p in m.content %}{% endfor %}{% endfor %}", False),
        ("{% for k, v in messages %}{% for p in v.content %}{% endfor %}{% endfor %}", False),
        ("{% set ns = namespace() %}{% set ns.m = messages %}" + PARTS, False),  # a target that vLLM does not follow
    ],
)
def test_a_template_that_goes_through_parts_gets_parts(template: str, parts: bool) -> None:
    assert RENDERER.traits(template).takes_parts is parts


def test_parts_are_joined_with_line_ends_or_given_as_they_are() -> None:
    turns = [Turn("system", ("a",)), ASKED, Turn("assistant", ()), Turn("user", ("b",))]
    joined = [
        *({"role": "system", "content": "a"}, {"role": "user", "content": "who\nis it?"}),
        *({"role": "assistant", "content": ""}, {"role": "user", "content": "b"}),
    ]
    assert render_turns(tokenizer_of(CHAT_TEMPLATE), turns, TemplateOptions()) == ids_of(CHAT_TEMPLATE, joined)
    in_parts = [
        {"role": turn.role, "content": [{"type": "text", "text": text} for text in turn.texts]} for turn in turns
    ]
    assert render_turns(tokenizer_of(PARTS), turns, TemplateOptions()) == ids_of(PARTS, in_parts)


def test_calls_results_and_tools_reach_a_template_that_takes_them() -> None:
    calls = (
        ToolCall("f", '{"b": 1, "a": [true]}', "c1"),
        ToolCall("g", "no json"),
        ToolCall("h", None),
        ToolCall("i", {"x": None}),
        ToolCall("j", "[1]"),
    )
    turns = [
        ASKED,
        Turn("assistant", (), reasoning="hm", tool_calls=calls),
        Turn("tool", ("4", "2"), name="f", tool_call_id="c1"),
    ]
    arguments = [{"b": 1, "a": [True]}, {}, {}, {"x": None}, {}]
    called = [
        {"function": {"arguments": given, "name": call.name}, "type": "function"}
        for given, call in zip(arguments, calls, strict=True)
    ]
    called[0] = {"id": "c1", **called[0]}
    thought = {"reasoning": "hm", "reasoning_content": "hm"}
    messages = [
        {"role": "user", "content": "who\nis it?"},
        {"role": "assistant", "content": "", "tool_calls": called, **thought},
        {"role": "tool", "content": "4\n2", "tool_call_id": "c1", "name": "f"},
    ]
    wanted = TemplateOptions(tools=[TOOL], documents=[{"text": "t"}])
    expected = ids_of(DUMP, messages, tools=[TOOL], documents=[{"text": "t"}])
    assert render_turns(tokenizer_of(DUMP), turns, wanted) == expected


def test_a_result_in_parts_is_one_text_for_any_template() -> None:
    template = PARTS + "{% for m in messages %}{{ m.content | tojson }}{% endfor %}{# 'tool' #}"
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "who"}, {"type": "text", "text": "is it?"}]},
        {"role": "tool", "content": "4\n2"},
    ]
    made = render_turns(tokenizer_of(template), [ASKED, Turn("tool", ("4", "2"))], TemplateOptions())
    assert made == ids_of(template, messages)


@pytest.mark.parametrize(
    ("turns", "wanted", "param"),
    [
        ([ASKED], TemplateOptions(tools=[TOOL]), "tools"),
        ([ASKED], TemplateOptions(documents=[{"text": "t"}]), "documents"),
        ([ASKED], TemplateOptions(reasoning_effort="low"), "reasoning_effort"),
        (
            [ASKED, Turn("assistant", ("a",), tool_calls=(ToolCall("f", "{}"),))],
            TemplateOptions(),
            "messages.1.tool_calls",
        ),
        ([ASKED, Turn("assistant", ("a",)), Turn("tool", ("4",))], TemplateOptions(), "messages.2.role"),
    ],
)
def test_what_the_template_would_leave_out_is_refused(turns: list[Turn], wanted: TemplateOptions, param: str) -> None:
    with pytest.raises(UnsupportedParameterError) as caught:
        render_turns(tokenizer_of(CHAT_TEMPLATE), turns, wanted)
    assert caught.value.param == param


def test_a_template_for_tools_is_used_with_tools() -> None:
    made = tokenizer_of({"default": CHAT_TEMPLATE, "tool_use": DUMP})
    messages = [{"role": "user", "content": "who\nis it?"}]
    assert render_turns(made, [ASKED], TemplateOptions(tools=[TOOL])) == ids_of(DUMP, messages, tools=[TOOL])
    assert render_turns(made, [ASKED], TemplateOptions()) == ids_of(CHAT_TEMPLATE, messages)
    made.chat_template = {"rag": CHAT_TEMPLATE, "other": DUMP}
    with pytest.raises(TargetIncompatibleError, match="default"):
        render_turns(made, [ASKED], TemplateOptions())


@pytest.mark.parametrize(
    ("wanted", "variables"),
    [
        (TemplateOptions(variables={"enable_thinking": False}), {"enable_thinking": False}),
        (
            TemplateOptions(variables={"enable_thinking": None, "reasoning_effort": "auto"}),
            {},
        ),  # vLLM's ways to leave out
        (TemplateOptions(reasoning_effort="high"), {"enable_thinking": True, "reasoning_effort": "high"}),
        (TemplateOptions(reasoning_effort="none"), {"enable_thinking": False, "reasoning_effort": "none"}),
        (
            TemplateOptions(variables={"enable_thinking": False}, reasoning_effort="low"),
            {"enable_thinking": False, "reasoning_effort": "low"},
        ),
        (TemplateOptions(add_generation_prompt=False), {"add_generation_prompt": False}),
        (TemplateOptions(variables={"unread": 1}), {}),
    ],
)
def test_variables_reach_the_template(wanted: TemplateOptions, variables: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "who\nis it?"}]
    assert render_turns(tokenizer_of(DUMP), [ASKED], wanted) == ids_of(DUMP, messages, **variables)


SYSTEM, DEVELOPER = Turn("system", ("s",)), Turn("developer", ("d", "e"))


@pytest.mark.parametrize(
    ("turns", "messages"),
    [
        ([DEVELOPER, ASKED], ["system d\ne", "user who\nis it?"]),
        ([SYSTEM, DEVELOPER, ASKED], ["system s\n\nd\ne", "user who\nis it?"]),
        ([ASKED, DEVELOPER, Turn("developer", ())], ["system d\ne", "user who\nis it?"]),
        ([ASKED, SYSTEM], ["user who\nis it?", "system s"]),  # without a developer nothing is moved
    ],
)
def test_a_developer_speaks_as_the_system_where_the_template_knows_none(turns: list[Turn], messages: list[str]) -> None:
    expected = [{"role": role, "content": text} for role, _, text in (each.partition(" ") for each in messages)]
    assert render_turns(tokenizer_of(CHAT_TEMPLATE), turns, TemplateOptions()) == ids_of(CHAT_TEMPLATE, expected)


def test_a_template_that_names_the_developer_gets_it() -> None:
    template = DUMP + '{# "developer" #}'
    messages = [{"role": "developer", "content": "d\ne", "tools": None}, {"role": "user", "content": "who\nis it?"}]
    assert render_turns(tokenizer_of(template), [DEVELOPER, ASKED], TemplateOptions()) == ids_of(template, messages)


@pytest.mark.parametrize(
    "template",
    [
        CHAT_TEMPLATE,
        PARTS,
        CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim"),
    ],
)
@pytest.mark.parametrize("text", ["it is", "it is  ", " \n it"])
def test_the_last_message_goes_on(template: str, text: str) -> None:
    turns = [ASKED, Turn("assistant", ("well", text))]
    in_parts = template is PARTS
    messages = [
        {"role": turn.role, "content": [{"type": "text", "text": each} for each in turn.texts]}
        if in_parts
        else {"role": turn.role, "content": "\n".join(turn.texts)}
        for turn in turns
    ]
    wanted = TemplateOptions(add_generation_prompt=False, continue_final_message=True)
    expected = ids_of(template, messages, add_generation_prompt=False, continue_final_message=True)
    assert render_turns(tokenizer_of(template), turns, wanted) == expected


@pytest.mark.parametrize(
    ("template", "turn", "param"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", Turn("assistant", ("it is",)), None),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", Turn("assistant", ("it is",)), None),
        ("{{ messages[0].content }}", Turn("assistant", ("it is",)), None),
        (PARTS, Turn("assistant", ()), None),
        ("{{ raise_exception('no') }}{{ content }}", Turn("assistant", ("a",)), "messages"),
    ],
)
def test_a_message_that_cannot_go_on_is_refused(template: str, turn: Turn, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        render_turns(
            tokenizer_of(template),
            [ASKED, turn],
            TemplateOptions(add_generation_prompt=False, continue_final_message=True),
        )
    assert caught.value.param == (param or "continue_final_message")


def test_a_broken_template_is_the_targets_fault_and_told() -> None:
    with pytest.raises(RequestError, match="is broken: TemplateSyntaxError"):
        render_turns(tokenizer_of("{% if %}"), [ASKED], TemplateOptions())
