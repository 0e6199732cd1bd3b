"""Renders chat templates in a child process with limits (`eda_service.target.template_worker`).

A template that takes too long or too much is stopped with its child, and the next order starts another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eda_service.errors import TargetIncompatibleError
from eda_service.target.child import JsonChild
from eda_service.target.template_worker import CPU_S, MEMORY_BYTES

MAX_TEMPLATE_CHARACTERS = 1 << 18
_TIMEOUT_S = 60.0  # for a machine that stands still; the child's processor time ends first


class TemplateRefusedError(Exception):
    """A template refused its messages, or broke; the message says how."""


class TemplateRenderer:
    """One child; calls from several threads take turns."""

    def __init__(self) -> None:
        self._child = JsonChild("eda_service.target.template_worker", timeout_s=_TIMEOUT_S)

    def render(self, template: str, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The text of a conversation.

        Raises:
            TemplateRefusedError: The template says so, or breaks.
            TargetIncompatibleError: It is too long, or takes more time or memory than it may.
        """
        if len(template) > MAX_TEMPLATE_CHARACTERS:
            raise TargetIncompatibleError(
                f"the target's chat template has {len(template)} characters, at most {MAX_TEMPLATE_CHARACTERS} are "
                "rendered; shorten it",
                param="target.model",
            )
        answer = self._child.ask({"template": template, "messages": list(messages), "variables": dict(variables)})
        if answer is None:
            raise TargetIncompatibleError(
                f"the target's chat template takes more than {CPU_S} s of processor time or {MEMORY_BYTES >> 20} MiB "
                "for these messages; shorten them or mend the template",
                param="target.model",
            )
        if "error" in answer:
            raise TemplateRefusedError(answer["error"])
        return str(answer["text"])

    def close(self) -> None:
        """End the child."""
        self._child.close()


RENDERER = TemplateRenderer()
"""Of this process."""
