"""The traits of a chat template: whether it loops over the parts of a message's content, and the variables it names.

vLLM decides by the same rules (`renderers/hf.py`, `_detect_content_format` and `_resolve_chat_template_kwargs`) in
which form contents are passed to a template, so that a request gives the same prompt with either engine. The rules use
names: they follow `messages` through assignments, loops and the arguments of macros, and ignore scopes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from jinja2 import Environment, nodes
from jinja2.meta import find_undeclared_variables

_CONTENT = "content"


class _UnknownFormError(Exception):
    """A loop or an assignment has a target of a form that the rules do not follow."""


def variables_of(template: str, environment: Environment) -> list[str]:
    """List the names that a template reads and does not define, in order."""
    return sorted(find_undeclared_variables(environment.parse(template)))


def takes_parts(template: str, environment: Environment) -> bool:
    """Whether the template has a loop over the parts of a message's content."""
    root = environment.parse(template)
    try:
        return any(_content_loops(root))
    except _UnknownFormError:
        return False


def _content_loops(root: nodes.Template) -> Iterator[bool]:
    """Yield whether each loop of the template is over a content, in the template's order."""
    messages = _message_names(root)
    parameters = _content_parameters(root, messages)
    for loop in root.find_all(nodes.For):
        over_content = any(_reads(loop.iter, name, _CONTENT) for name in messages)
        if not over_content and isinstance(loop.iter, nodes.Name):
            inside = parameters.get(id(loop))
            over_content = loop.iter.name == _CONTENT if inside is None else loop.iter.name in inside
        if over_content:
            _name_of(loop.target)
            yield True


def _message_names(root: nodes.Template) -> list[str]:
    """List the names that the template's loops over messages give to one message."""
    lists, names = _names_of_messages(root), []
    for loop in root.find_all(nodes.For):
        if any(_reads(loop.iter, name) for name in lists):
            names.append(_name_of(loop.target))
    return names


def _names_of_messages(root: nodes.Template) -> list[str]:
    """List `messages`, and the names that it, or a slice or a filtering of it, is assigned to."""
    names, waiting = ["messages"], deque(["messages"])
    while waiting:
        source = waiting.popleft()
        for assignment in root.find_all(nodes.Assign):
            if _reads(assignment.node, source):
                name = _name_of(assignment.target)
                if name not in names:
                    names.append(name)
                    waiting.append(name)
    return names


def _content_parameters(root: nodes.Template, messages: list[str]) -> dict[int, set[str]]:
    """Return, for each loop in a macro, the macro's parameters to which a call passes a message's content."""
    found: dict[int, set[str]] = {}
    calls = list(root.find_all(nodes.Call))
    for macro in root.find_all(nodes.Macro):
        names = [argument.name for argument in macro.args]
        given: set[str] = set()
        for call in calls:
            if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
                pairs = [*zip(names, call.args, strict=False), *((each.key, each.value) for each in call.kwargs)]
                given |= {
                    name
                    for name, value in pairs
                    if name in names and any(_reads(value, message, _CONTENT) for message in messages)
                }
        for loop in macro.find_all(nodes.For):
            found[id(loop)] = given or found.get(id(loop), set())
    return found


def _reads(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """Whether an expression is a variable (or its key), perhaps filtered, tested or sliced."""
    if isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        return node.node is not None and _reads(node.node, name, key)
    if key is None:
        return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
    if isinstance(node, nodes.Getitem):
        return _reads_name(node.node, name) and isinstance(node.arg, nodes.Const) and node.arg.value == key
    return isinstance(node, nodes.Getattr) and _reads_name(node.node, name) and node.attr == key


def _reads_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _name_of(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _UnknownFormError
    return target.name
