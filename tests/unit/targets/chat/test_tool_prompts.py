"""Tools, calls and results through the target's chat template, exactly as transformers renders them; a template that
leaves them out is refused.

Oracle: `apply_chat_template` of transformers, on two tokenizers.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from tiny_models import CHAT_TEMPLATE, build_tokenizer
from transformers import PreTrainedTokenizerFast

from eda_service.config.job import SelfGenConfig, TargetSpec
from eda_service.engines.engine import Answer, AnswerRequest
from eda_service.engines.own import OwnEngine
from eda_service.errors import DatasetInvalidError, TargetIncompatibleError
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt
from eda_service.targets.chat.chat import render_prompt, target_tokenizer
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.loader import Target

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Adds <b>two</b> numbers, in Zürich's way.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        },
    }
    for name in ("add", "sub")
]
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": [None, "é"]}}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1 and 2?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": '{"sum": 3}', "tool_call_id": "c1", "name": "add"},
    {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "add"},
]
# Three ways in which families write tools: tags, JSON in the user's turn, and a template of its own for tools.
TAGS = """
{%- if tools %}{{ '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n' }}{% endif %}
    {%- for tool in tools %}{{ '<tool>' + (tool | tojson) + '</tool>\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.tool_calls %}{{ '<|im_start|>assistant' }}
        {%- if message.content %}{{ '\\n' + message.content }}{% endif %}
        {%- for call in message.tool_calls %}{% set call = call.function %}
            {{- '\\n<call>{"name": "' + call.name + '", "arguments": ' + (call.arguments | tojson) + '}</call>' }}
        {%- endfor %}{{ '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}{{ '<|im_start|>user\\n<result>' + message.content + '</result><|im_end|>\\n' }}
    {%- elif not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}
{%- endif %}"""
IN_USER_TURN = """
{%- if not tools is defined %}{% set tools = none %}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'user' and tools is not none %}{{ 'user: ' }}
        {%- for t in tools %}{{ t | tojson(indent=4) }}{{ '\\n\\n' }}{% endfor %}{{ message.content | trim }}
    {%- elif 'tool_calls' in message %}
        {%- for call in message.tool_calls %}
            {{- 'assistant: {"name": "' + call.function.name + '", "parameters": ' }}
            {{- call.function.arguments | tojson }}
        {%- endfor %}
    {%- elif message.role in ('tool', 'ipython') %}{{ 'ipython: ' + (message.content | tojson) }}
    {%- else %}{{ message.role + ': ' + message.content }}{% endif %}{{ eos_token }}
{%- endfor %}{{ 'assistant: ' }}"""
NAMED = {"default": CHAT_TEMPLATE, "tool_use": TAGS}


@pytest.fixture(scope="module", params=["tiny", "smollm2-135m-instruct"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """A small one and a shipped one; tests set its template."""
    if request.param == "tiny":
        return build_tokenizer()
    made: PreTrainedTokenizerFast = copy.deepcopy(target_tokenizer(resolve_target(TargetSpec(model=request.param))))
    return made


def by_transformers(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], **beside: Any) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **beside)
    return [int(each) for each in tokenizer(text, add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("template", [TAGS, IN_USER_TURN, NAMED], ids=["tags", "in the user's turn", "a named one"])
def test_tools_render_as_transformers_renders_them(tokenizer: PreTrainedTokenizerFast, template: Any) -> None:
    tokenizer.chat_template = template
    for messages in (MESSAGES, MESSAGES[:2], MESSAGES[1:]):
        wanted = by_transformers(tokenizer, messages, tools=TOOLS)
        assert render_prompt(tokenizer, messages, tools=TOOLS) == wanted
        assert "Adds" in tokenizer.decode(wanted)
    plain = MESSAGES[:2]
    assert render_prompt(tokenizer, plain) == by_transformers(tokenizer, plain)


def test_variables_of_a_row_reach_the_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = TAGS
    for value in (False, True):
        wanted = by_transformers(tokenizer, MESSAGES[:2], enable_thinking=value)
        assert render_prompt(tokenizer, MESSAGES[:2], template_kwargs={"enable_thinking": value}) == wanted
        assert ("<think>" in tokenizer.decode(wanted)) is not value


SILENT = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}{{ m.role + (m.content or '') }}{% endif %}"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "messages", "tools", "left_out"),
    [
        (CHAT_TEMPLATE, MESSAGES[:2], TOOLS, "leaves out the tools, so"),
        (SILENT, MESSAGES, TOOLS, "leaves out the tools and calls of tools and results of tools, so"),
        (SILENT, MESSAGES, None, "leaves out calls of tools and results of tools, so"),
        (TAGS.replace("tool in tools", "tool in tools[:1]"), MESSAGES, TOOLS, "leaves out the tools, so"),
        (TAGS.replace("<result>' + message.content", "<result>'"), MESSAGES, TOOLS, "leaves out results of tools"),
        ({"default": CHAT_TEMPLATE}, MESSAGES[:2], TOOLS, "leaves out the tools, so"),
    ],
)
def test_a_template_that_leaves_tools_out_is_refused(
    tokenizer: PreTrainedTokenizerFast, template: Any, messages: list[Any], tools: Any, left_out: str
) -> None:
    tokenizer.chat_template = template
    with pytest.raises(DatasetInvalidError, match=left_out) as caught:
        render_prompt(tokenizer, messages, tools=tools)
    assert caught.value.param == "messages"
    tokenizer.chat_template = TAGS
    assert render_prompt(tokenizer, messages, tools=tools)


def test_results_through_a_template_that_takes_any_role_are_shown(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = CHAT_TEMPLATE
    messages = [MESSAGES[1], {"role": "assistant", "content": "[add(1, 2)]"}, MESSAGES[4]]
    assert render_prompt(tokenizer, messages) == by_transformers(tokenizer, messages)


def test_several_templates_without_a_default_are_the_targets_fault(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = {"tool_use": TAGS, "rag": CHAT_TEMPLATE}
    with pytest.raises(TargetIncompatibleError, match="named rag, tool_use and none named default"):
        render_prompt(tokenizer, MESSAGES[:2])


@dataclasses.dataclass
class Recorder(OwnEngine):
    """An engine that keeps the requests it was given."""

    asked: dict[str, AnswerRequest] = dataclasses.field(default_factory=dict)

    def answer(self, requests: Mapping[str, AnswerRequest], **more: Any) -> dict[str, Answer]:
        """As the engine itself."""
        self.asked |= requests
        return super().answer(requests, **more)


def test_every_engine_gets_the_whole_prompt_and_the_shard_holds_it(tiny_target: Target) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TAGS
    target = dataclasses.replace(tiny_target, tokenizer=tokenizer)
    prompts = [Prompt("with", MESSAGES[1:], tools=TOOLS[:1]), Prompt("without", MESSAGES[:2])]
    config = SelfGenConfig(temperature=0.0, max_new_tokens=8, max_prompt_tokens=480)
    wanted = {
        "with": by_transformers(tokenizer, MESSAGES[1:], tools=TOOLS[:1]),
        "without": by_transformers(tokenizer, MESSAGES[:2]),
    }
    engine = Recorder(target)
    made = generate(engine, prompts, config, seed=0)
    assert not made.skipped
    assert {each.sample_id: each.token_ids[: each.num_prompt_tokens] for each in made.samples} == wanted
    assert {name: each.prompt_ids for name, each in engine.asked.items()} == wanted


def test_a_row_whose_tools_the_target_would_not_see_is_skipped_with_that_reason(tiny_target: Target) -> None:
    prompts = [Prompt("with", MESSAGES[:2], tools=TOOLS), Prompt("without", MESSAGES[:2])]
    made = generate(OwnEngine(tiny_target), prompts, SelfGenConfig(temperature=0.0, max_new_tokens=8), seed=0)
    assert [each.sample_id for each in made.samples] == ["without"]
    assert [each.sample_id for each in made.skipped] == ["with"]
    assert "leaves out the tools" in made.skipped[0].reason
