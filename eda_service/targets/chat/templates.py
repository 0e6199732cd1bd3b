"""Renders chat templates in a child process with limits (`eda_service.targets.chat.template_worker`).

A template that takes too much time or memory is stopped with its child, and the next order starts a new child.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eda_service.errors import TargetIncompatibleError
from eda_service.targets.chat.template_worker import CPU_S, MEMORY_BYTES
from eda_service.targets.child import JsonChild

MAX_TEMPLATE_CHARACTERS = 1 << 18
_TIMEOUT_S = 60.0  # for a machine under heavy load; the child's limit of processor time is reached first
_MAX_KNOWN = 64  # number of templates whose traits are remembered


class TemplateRefusedError(Exception):
    """A template refused its messages, or failed; the message says why."""


@dataclass(frozen=True)
class TemplateTraits:
    """Properties of a chat template.

    Attributes:
        variables: Names that the template reads and does not define.
        takes_parts: Whether it has a loop over the parts of a message's content.
    """

    variables: frozenset[str]
    takes_parts: bool


class TemplateRenderer:
    """Renders templates in one child process; calls from several threads take turns."""

    def __init__(self) -> None:
        self._traits: dict[str, TemplateTraits] = {}
        self._child = JsonChild("eda_service.targets.chat.template_worker", timeout_s=_TIMEOUT_S)

    def render(self, template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """Render the text of a conversation.

        Raises:
            TemplateRefusedError: The template raises an error.
            TargetIncompatibleError: The template is too long, or exceeds the limit of time or memory.
        """
        return str(self._answer(template, messages=list(messages), variables=dict(variables))["text"])

    def traits(self, template: str) -> TemplateTraits:
        """Return a template's traits; the child is asked once.

        Raises:
            TemplateRefusedError: The text is not a template.
            TargetIncompatibleError: The template is too long, or exceeds the limit of time or memory.
        """
        found = self._traits.get(template)
        if found is None:
            answer = self._answer(template)
            found = TemplateTraits(frozenset(answer["variables"]), bool(answer["takes_parts"]))
            if len(self._traits) >= _MAX_KNOWN:
                self._traits.clear()
            self._traits[template] = found
        return found

    def _answer(self, template: str, **more: Any) -> dict[str, Any]:
        """Send an order to the child and return its answer."""
        if len(template) > MAX_TEMPLATE_CHARACTERS:
            raise TargetIncompatibleError(
                f"the target's chat template has {len(template)} characters, at most {MAX_TEMPLATE_CHARACTERS} are "
                "rendered; shorten it",
                param="target.model",
            )
        answer = self._child.ask({"template": template, **more})
        if answer is None:
            raise TargetIncompatibleError(
                f"the target's chat template takes more than {CPU_S} s of processor time or {MEMORY_BYTES >> 20} MiB "
                "for these messages; shorten them or mend the template",
                param="target.model",
            )
        if "error" in answer:
            raise TemplateRefusedError(answer["error"])
        return answer

    def close(self) -> None:
        """End the child process."""
        self._child.close()


RENDERER = TemplateRenderer()
"""The renderer of this process."""
