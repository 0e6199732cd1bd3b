"""Keeps the newest prompts of models whose deployments ask for it, redacted, for adapting their packs again.

A child process redacts and writes: a user's regular expression may run for hours, and must not hold up the event loop.
A prompt that takes longer than a second is not kept, nor is one that comes while many wait; after three slow ones in a
row that model's prompts are no longer kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.endpoint.protocol.requests import ChatRequest, CompletionRequest, GenerationRequest
from eda_service.config.deployment import DriftConfig
from eda_service.storage.samples import prompts

logger = logging.getLogger(__name__)

_MAX_WAITING = 256
_TIMEOUT_S = 1.0
_MAX_FAILURES = 3
_START_TIMEOUT_S = 60.0


class PromptLog:
    """Offers prompts to the child process; used on one event loop.

    Args:
        home: Root of all state.
        replica: Id of the replica, part of the file's name.
    """

    def __init__(self, home: Path, replica: str) -> None:
        self._home, self._replica = home, replica
        self._settings: dict[str, DriftConfig] = {}  # by uid of the deployment
        self._waiting: asyncio.Queue[tuple[str, prompts.KeptPrompt]] = asyncio.Queue(_MAX_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._failures: Counter[str] = Counter()
        self.num_dropped = 0

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Keep the prompts of these deployments, by uid, from now on, and of no others."""
        wanted = {uid: DriftConfig.model_validate(each) for uid, each in settings.items()}
        for uid in set(self._settings) - set(wanted):
            prompts.forget(self._home, uid)
        for uid in wanted:
            prompts.open_directory(self._home, uid)
        self._settings = wanted
        self._failures.clear()
        if wanted and self._task is None:
            self._task = asyncio.create_task(self._keep_always())

    def offer(self, uid: str, request: GenerationRequest) -> None:
        """Keep the text of a request if its deployment keeps prompts; prompts given as token ids have no text."""
        if uid not in self._settings:
            return
        for messages in _conversations(request):
            size = sum(len(message["content"]) for message in messages)
            if messages[-1]["role"] != "user" or not 0 < size <= prompts.MAX_CHARACTERS:
                continue
            try:
                self._waiting.put_nowait((uid, {"at": time.time(), "messages": messages}))
            except asyncio.QueueFull:
                self.num_dropped += 1

    async def stop(self) -> None:
        """End the child process."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end_child()

    async def _keep_always(self) -> None:
        while True:
            uid, row = await self._waiting.get()
            settings = self._settings.get(uid)
            if settings is None:
                continue
            path = prompts.directory(self._home, uid) / f"{self._replica}.jsonl"
            entry = {"path": str(path), "num": settings.keep_prompts, "redact": settings.redact, "row": row}
            try:
                await self._write(entry)
                self._failures[uid] = 0
            except (TimeoutError, OSError) as error:
                self.num_dropped += 1
                self._failures[uid] += 1
                logger.warning("a prompt of %s is not kept: %s", uid, type(error).__name__)
                await self._end_child()
                if self._failures[uid] >= _MAX_FAILURES:
                    logger.error("no more prompts of %s are kept until its settings change", uid)
                    self._settings.pop(uid, None)

    async def _write(self, entry: Mapping[str, Any]) -> None:
        if self._child is None:
            pipe = asyncio.subprocess.PIPE
            command = (sys.executable, "-m", "api.endpoint.redactor")
            self._child = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
            await self._done(self._child, _START_TIMEOUT_S)
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(entry).encode() + b"\n")
        await self._done(self._child, _TIMEOUT_S)

    @staticmethod
    async def _done(child: asyncio.subprocess.Process, timeout_s: float) -> None:
        assert child.stdout is not None
        async with asyncio.timeout(timeout_s):  # `wait_for` of Python 3.11 may lose a cancellation
            answer = await child.stdout.readline()
        if not answer:
            raise BrokenPipeError("the redactor ended")

    async def _end_child(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def _conversations(request: GenerationRequest) -> list[list[dict[str, str]]]:
    """Convert a request's prompts to rows of a prompt file; conversations with tools have no such form: none."""
    if isinstance(request, ChatRequest):
        if request.tools or request.documents or any(message.has_tools for message in request.messages):
            return []
        return [[message.kept() for message in request.messages]]
    assert isinstance(request, CompletionRequest)
    return [[{"role": "user", "content": text}] for text in request.prompts if isinstance(text, str)]
