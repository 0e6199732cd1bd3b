"""Chat templates as programs of strangers: each ends, and sound ones render as transformers renders them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_models import CHAT_TEMPLATE
from transformers.utils.chat_template_utils import render_jinja_template

from eda_service.errors import TargetIncompatibleError
from eda_service.targets.chat.templates import MAX_TEMPLATE_CHARACTERS, TemplateRefusedError, TemplateRenderer
from eda_service.targets.files.resolve import shipped_targets

pytestmark = pytest.mark.slow

MESSAGES = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "<b>é\n\U0001f600</b> & 'x'"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "and?"},
]
VARIABLES = {"tools": None, "documents": None, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
SOUND = {
    "chatml": CHAT_TEMPLATE,
    "json": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "blocks": "  {% for m in messages %}\n  {% if m.role == 'user' %}{% continue %}{% endif %}\n"
    "{{ m.content | trim }}\n{% endfor %}\n",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "macro": "{% macro turn(m) %}[{{ m['role'] | upper }}] {{ m['content'] }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{{ eos_token }}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% endif %}{% endfor %}",
    "undefined": "{% if tools is not none %}x{% endif %}{{ bos_token }}{{ nothing }}",
}


@pytest.fixture(scope="module")
def renderer() -> Iterator[TemplateRenderer]:
    made = TemplateRenderer()
    yield made
    made.close()


def shipped() -> dict[str, str]:
    paths = shipped_targets().glob("*/chat_template.jinja")
    return {path.parent.name: path.read_text(encoding="utf-8") for path in paths}


@pytest.mark.parametrize("name", [*SOUND, *shipped()])
def test_a_sound_template_renders_as_transformers_renders_it(renderer: TemplateRenderer, name: str) -> None:
    template = {**SOUND, **shipped()}[name]
    wanted, _ = render_jinja_template([MESSAGES], chat_template=template, **VARIABLES)
    assert renderer.render(template, MESSAGES, VARIABLES) == wanted[0]


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(200) }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ '%1000000000000d' % 1 }}",
    ],
    ids=["nested-loops", "branching-recursion", "power-tower", "padding"],
)
def test_a_template_that_does_not_end_is_ended(renderer: TemplateRenderer, template: str) -> None:
    began = time.monotonic()
    with pytest.raises((TargetIncompatibleError, TemplateRefusedError)):
        renderer.render(template, MESSAGES, VARIABLES)
    assert time.monotonic() - began < 50
    assert renderer.render("{{ bos_token }}", MESSAGES, VARIABLES) == "<s>"


@pytest.mark.parametrize(
    "template",
    [
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ 'x'.center(10000000000) }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ],
    ids=["doubling", "repeat", "center", "list"],
)
def test_a_template_that_wants_all_memory_gets_little(renderer: TemplateRenderer, template: str) -> None:
    with pytest.raises((TargetIncompatibleError, TemplateRefusedError)):
        renderer.render(template, MESSAGES, VARIABLES)
    assert renderer.render("{{ eos_token }}", MESSAGES, VARIABLES) == "</s>"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages.__init__.__globals__ }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ messages.content.x }}", "UndefinedError"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'ab' * 3000000 }}", "characters"),
    ],
)
def test_what_a_template_does_wrong_is_told(renderer: TemplateRenderer, template: str, problem: str) -> None:
    with pytest.raises(TemplateRefusedError, match=problem):
        renderer.render(template, MESSAGES, VARIABLES)


def test_a_template_that_is_too_long_is_not_compiled(renderer: TemplateRenderer) -> None:
    with pytest.raises(TargetIncompatibleError, match="at most"):
        renderer.render("x" * (MAX_TEMPLATE_CHARACTERS + 1), MESSAGES, VARIABLES)


def test_a_child_that_was_killed_is_started_again(renderer: TemplateRenderer) -> None:
    assert renderer.render("a", [], {}) == "a"
    child: Any = renderer._child._child
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert renderer.render("b", [], {}) == "b"
