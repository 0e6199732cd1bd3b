"""Changes the models that a replica serves to those of the newest config, while requests are answered.

Serve sends a replica no requests while its `reconfigure` runs: in a group with one replica, every request, also to
other models, would wait at the proxy until a pack or an adapter is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from eda_service.config.job import EngineKind
from eda_service.raycluster.serve_plan import ServedModel

logger = logging.getLogger(__name__)

Models = Sequence[ServedModel]


def stops_for_a_swap(model: ServedModel) -> bool:
    """Whether a model cannot answer while its next pack is loaded; Serve then takes one replica after another out."""
    engine = model.engine
    return engine.kind is EngineKind.VLLM and engine.vllm.swap == "restart" and not engine.vllm.is_shared


class Reconciler:
    """Applies one config after another; of several that wait, only the newest is applied.

    Args:
        make: Function that serves these models and no others.
        made: Function called after each config.
    """

    def __init__(self, make: Callable[[Models], Awaitable[None]], made: Callable[[], None]) -> None:
        self._make, self._made = make, made
        self._wanted: Models | None = None
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.failure: str | None = None

    async def now(self, models: Models) -> None:
        """Serve these models before returning."""
        self._wanted = models
        await self._make_newest()

    def soon(self, models: Models) -> None:
        """Begin to serve these models, and return."""
        self._wanted = models
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._make_all())

    async def stop(self) -> None:
        """Stop: apply no further config."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _make_all(self) -> None:
        while self._wanted is not None:
            try:
                await self._make_newest()
            except Exception as error:  # whatever a model's files bring about; the replica is then replaced
                logger.exception("cannot serve what is wanted")
                self.failure = f"{type(error).__name__}: {error}"

    async def _make_newest(self) -> None:
        async with self._turn:
            models, self._wanted = self._wanted, None
            if models is not None:
                await self._make(models)
                self._made()
