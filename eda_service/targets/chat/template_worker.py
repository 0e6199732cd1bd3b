"""`python -m eda_service.targets.chat.template_worker`: renders chat templates, one JSON order a line on stdin.

A template is a program of the publisher of the target. It runs here, in Jinja's immutable sandbox, as transformers
would run it, in a process that the kernel stops when it takes too much processor time or memory. Each order is
`{"template", "messages", "variables"}`, each answer `{"text"}` or `{"error"}`; an empty object comes first. An order
with a template alone is answered with the template's traits, `{"variables", "takes_parts"}`.
"""

from __future__ import annotations

import datetime
import json
import resource
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn, TextIO

from jinja2 import Environment, Template, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from eda_service.targets.chat.template_traits import takes_parts, variables_of
from eda_service.targets.child_worker import limit, limit_order, say

CPU_S = 2
MEMORY_BYTES = 512 << 20
MAX_TEXT_CHARACTERS = 4 << 20
_MAX_MESSAGE_CHARACTERS = 300


class _Generation(Extension):
    """Implements `{% generation %}`, with which transformers marks the answer's place. As there, the block is called
    like a macro: variables set in it end with it, and a loop around it cannot be left from inside it.
    """

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> Node:
        """Make a macro call of the block's content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller: Callable[[], str]) -> str:
        return caller()


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _environment() -> Environment:
    """Make the environment of `transformers.utils.chat_template_utils`."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = _tojson
    made.globals |= {"raise_exception": _raise, "strftime_now": _now}
    return made


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order."""
    template = order["template"]
    try:
        if "messages" not in order:
            made = _environment()
            return {"variables": variables_of(template, made), "takes_parts": takes_parts(template, made)}
        text = _compiled(template).render({**order["variables"], "messages": order["messages"]})
        if len(text) > MAX_TEXT_CHARACTERS:
            return {"error": f"it makes {len(text)} characters, at most {MAX_TEXT_CHARACTERS} are allowed"}
        text.encode("utf-8")
    except MemoryError:
        return {"error": f"it needs more than {MEMORY_BYTES >> 20} MiB"}
    except Exception as error:
        # Every error of a template is its author's error, and is reported as one.
        return {"error": f"{type(error).__name__}: {error}"[:_MAX_MESSAGE_CHARACTERS]}
    return {"text": text}


def work(orders: TextIO, answers: TextIO) -> None:
    """Answer orders until the input ends."""
    limit(resource.RLIMIT_AS, MEMORY_BYTES)
    limit(resource.RLIMIT_CORE, 0)
    say({}, answers)
    for line in orders:
        limit_order(CPU_S)
        say(answer(json.loads(line)), answers)


if __name__ == "__main__":
    work(sys.stdin, sys.stdout)
