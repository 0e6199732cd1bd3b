"""Renders chat templates in a child process with limits (`eda_service.target.template_worker`).

The child starts with the first template and serves this process until it ends. A template that takes too long or too
much is stopped with it, and the next order starts another.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from eda_service.errors import TargetIncompatibleError
from eda_service.target.template_worker import CPU_S, MEMORY_BYTES

MAX_TEMPLATE_CHARACTERS = 1 << 18
_TIMEOUT_S = 60.0  # for a machine that stands still; the child's processor time ends first
_READ_BYTES = 1 << 16
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
        self._lock = threading.Lock()
        self._traits: dict[str, TemplateTraits] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._owner_pid = 0

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
        order = json.dumps({"template": template, **more})
        with self._lock:
            answer = self._ask(order.encode() + b"\n")
        if "error" in answer:
            raise TemplateRefusedError(answer["error"])
        return answer

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._end()

    def _ask(self, order: bytes) -> dict[str, Any]:
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(order)
            child.stdin.flush()
            line = _read_line(child.stdout)
        except (OSError, TimeoutError):
            line = b""
        if not line:
            self._end()
            raise TargetIncompatibleError(
                f"the target's chat template takes more than {CPU_S} s of processor time or {MEMORY_BYTES >> 20} MiB "
                "for these messages; shorten them or mend the template",
                param="target.model",
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._owner_pid == os.getpid() and self._child.poll() is None:
            return self._child
        if self._owner_pid == os.getpid():
            self._end()
        command = [sys.executable, "-m", "eda_service.target.template_worker"]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._owner_pid = os.getpid()
        assert self._child.stdout is not None
        if not _read_line(self._child.stdout):
            self._end()
            raise RuntimeError("the process that renders chat templates does not start; its error is in this log")
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()


def _read_line(stream: IO[bytes]) -> bytes:
    """One line; empty when the child has ended.

    Raises:
        TimeoutError: It does not come.
    """
    deadline, parts = time.monotonic() + _TIMEOUT_S, b""
    ready = select.poll()  # not `select.select`, which knows no file beyond the 1,024th
    ready.register(stream, select.POLLIN | select.POLLHUP)
    while not parts.endswith(b"\n"):
        if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        more = os.read(stream.fileno(), _READ_BYTES)
        if not more:
            return b""
        parts += more
    return parts


RENDERER = TemplateRenderer()
"""Of this process."""
