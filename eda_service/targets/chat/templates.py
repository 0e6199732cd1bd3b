"""Renders chat templates in a child process with limits (`eda_service.targets.chat.template_worker`).

A template that takes too long or too much is stopped with its child, and the next order starts another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eda_service.errors import TargetIncompatibleError
from eda_service.targets.chat.template_worker import CPU_S, MEMORY_BYTES
from eda_service.targets.child import JsonChild

MAX_TEMPLATE_CHARACTERS = 1 << 18
_TIMEOUT_S = 60.0  # for a machine that stands still; the child's processor time ends first
_MAX_KNOWN = 64  # templates whose traits are remembered


class TemplateRefusedError(Exception):
    """A template refused its messages, or broke; the message says how."""


@dataclass(frozen=True)
class TemplateTraits:
    """What a template reads.

    Attributes:
        variables: Names that it reads and does not define.
        takes_parts: It has a loop over the parts of a message's content.
    """

    variables: frozenset[str]
    takes_parts: bool


class TemplateRenderer:
    """One child; calls from several threads take turns."""

    def __init__(self) -> None:
        self._traits: dict[str, TemplateTraits] = {}
        self._child = JsonChild("eda_service.targets.chat.template_worker", timeout_s=_TIMEOUT_S)

    def render(self, template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The text of a conversation.

        Raises:
            TemplateRefusedError: The template says so, or breaks.
            TargetIncompatibleError: It is too long, or takes more time or memory than it may.
        """
        return str(self._answer(template, messages=list(messages), variables=dict(variables))["text"])

    def traits(self, template: str) -> TemplateTraits:
        """What a template reads; asked of the child once.

        Raises:
            TemplateRefusedError: It is no template.
            TargetIncompatibleError: It is too long, or takes more time or memory than it may.
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
        """What the child makes of an order."""
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
        """End the child."""
        self._child.close()


RENDERER = TemplateRenderer()
"""Of this process."""
