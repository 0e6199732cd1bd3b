"""Awkward templates, `{% generation %}` above all, render as transformers renders them; what it refuses is refused.

Oracle: `apply_chat_template(return_assistant_tokens_mask=True)`, whose mask also says that each case has an answer.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jinja2 import TemplateError
from tiny_models import build_tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from eda_service.targets.chat.templates import TemplateRefusedError, TemplateRenderer

MESSAGES = [
    {"role": "system", "content": " be brief "},
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "two", "n": 2},
    {"role": "user", "content": "three?"},
    {"role": "assistant", "content": "four\n", "n": 4},
]
_EACH = "{% for m in messages %}", "{% endfor %}"
AWKWARD = {
    "set inside": "{% set x = 'a' %}{% generation %}{% set x = 'b' %}{{ x }}{% endgeneration %}{{ x }}",
    "set inside alone": "{% generation %}{% set x = 'b' %}{{ x }}{% endgeneration %}[{{ x }}]{{ x is defined }}",
    "nested sets": "{% set x = 1 %}{% if true %}{% set x = 2 %}{% generation %}{% set x = x + 5 %}{{ x }}"
    "{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}{% endgeneration %}{{ x }}{% endif %}{{ x }}",
    "set block": "{% set x %}out{% endset %}{% generation %}{% set x %}in{% endset %}{{ x }}{% endgeneration %}{{ x }}",
    "namespace": "{% set ns = namespace(n=0) %}{% generation %}{% set ns.n = ns.n + 1 %}{{ ns.n }}{% endgeneration %}"
    "{{ ns.n }}",
    "in a loop": _EACH[0] + "{% set x = m.role %}{% if m.role == 'assistant' %}{% generation %}{% set x = 'A' %}"
    "{{ loop.index }}{{ x }}{{ m.content }}{% endgeneration %}{% endif %}{{ x }};" + _EACH[1],
    "a loop inside": "{% generation %}{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}"
    "{% if m.n == 4 %}{% break %}{% endif %}{{ m.content }}{% endfor %}{% endgeneration %}!",
    "loop controls around": _EACH[0] + "{% if m.role == 'system' %}{% continue %}{% endif %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{% if m.n is defined %}{% break %}{% endif %}" + _EACH[1],
    "macro": "{% macro turn(m) %}{% generation %}{% set x = m.content %}{{ x }}{% endgeneration %}{{ x }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{% endfor %}",
    "macro inside": "{% generation %}{% macro f(a) %}<{{ a }}>{% endmacro %}{{ f(1) }}{% endgeneration %}"
    "{{ f is defined }}",
    "caller": "{% macro wrap() %}[{{ caller() }}]{% endmacro %}{% generation %}{% call wrap() %}in"
    "{% endcall %}{% endgeneration %}",
    "filter block": "{% generation %}{% filter upper %}loud{% endfilter %}{% endgeneration %}quiet",
    "blocks in blocks": "{% generation %}a{% generation %}{% set x = 1 %}b{{ x }}{% endgeneration %}{{ x }}"
    "{% endgeneration %}",
    "whitespace": "a  \n  {%- generation -%}  \n b \n  {%- endgeneration %}  \n c",
    "plus": "  {%+ generation %}\n x \n  {%+ endgeneration +%}\n y",
    "lines": "  {% generation %}\n  {{ messages[2].content }}\n  {% endgeneration %}\n  z\n",
    "recursive": "{% generation %}{% for m in [[1, [2]], [3]] recursive %}{% if m is iterable %}{{ loop(m) }}"
    "{% else %}{{ m }}{% endif %}{% endfor %}{% endgeneration %}",
    "with": "{% with x = 1 %}{% generation %}{{ x }}{% set x = 2 %}{% endgeneration %}{{ x }}{% endwith %}",
    "json": "{% generation %}{{ messages[4] | tojson }}{{ messages | tojson(indent=1) }}{{ 'é<>&' | tojson }}"
    "{{ 'é' | tojson(ensure_ascii=true) }}{{ {'b': 1, 'a': [1, 2]} | tojson(sort_keys=true, separators=(',', ':')) }}"
    "{% endgeneration %}",
    "time": "{% generation %}{{ strftime_now('%Y') }}{% endgeneration %}",
    "raised not": "{% generation %}{% if false %}{{ raise_exception('no') }}{% endif %}ok{% endgeneration %}",
    "undefined": "{% generation %}{{ nothing }}{{ nothing is defined }}a{% endgeneration %}",
    "markup": "{% generation %}{{ '<b>' | e }}{{ '<i>' }}{% endgeneration %}{{ '<u>' | e }}",
}
REFUSED = {
    "break out": _EACH[0] + "{% generation %}{% break %}{% endgeneration %}" + _EACH[1],
    "continue out": _EACH[0] + "{% generation %}{% continue %}{% endgeneration %}" + _EACH[1],
    "raised": "{% generation %}{{ raise_exception('no') }}{% endgeneration %}",
    "loop of outside": _EACH[0] + "{% generation %}{{ nothing.x }}{% endgeneration %}" + _EACH[1],
    "not ended": "{% generation %}a",
    "ended only": "a{% endgeneration %}",
    "an argument": "{% generation x %}a{% endgeneration %}",
}


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    made = TemplateRenderer()
    yield made
    made.close()


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_template_renders_as_transformers_renders_it(renderer: TemplateRenderer, name: str) -> None:
    template, tokenizer = AWKWARD[name], build_tokenizer()
    made = tokenizer.apply_chat_template(MESSAGES, chat_template=template, return_assistant_tokens_mask=True)
    assert any(made["assistant_masks"])
    variables = {"tools": None, "documents": None, "add_generation_prompt": False, **tokenizer.special_tokens_map}
    text = renderer.render(template, MESSAGES, variables)
    assert text == render_jinja_template([MESSAGES], chat_template=template, **variables)[0][0]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == made["input_ids"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_transformers_refuses_is_refused(renderer: TemplateRenderer, name: str) -> None:
    with pytest.raises((TemplateError, SyntaxError)):
        render_jinja_template([MESSAGES], chat_template=REFUSED[name])
    with pytest.raises(TemplateRefusedError):
        renderer.render(REFUSED[name], MESSAGES, {})
