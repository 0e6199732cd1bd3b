"""`AsyncClient` behind `Client`'s surface, so that each test holds for both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from eda_service.client import AsyncClient, Client

MakeClient = Callable[..., Client]
_END = object()


class _Resource:
    """An object of `AsyncClient`, each method run to its end, each iterator step by step, in one event loop."""

    def __init__(self, runner: asyncio.Runner, client: Any) -> None:
        self._runner, self._client = runner, client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return _Resource(self._runner, method)

        def call(*args: Any, **options: Any) -> Any:
            found = method(*args, **options)
            return self._items(found) if hasattr(found, "__anext__") else self._runner.run(found)

        return call

    def _items(self, found: Any) -> Iterator[Any]:
        async def step() -> Any:
            return await anext(found, _END)

        try:
            while (item := self._runner.run(step())) is not _END:
                yield item
        finally:
            self._runner.run(found.aclose())


class InLoop(_Resource):
    """`AsyncClient` itself."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(asyncio.Runner(), AsyncClient(*args, **options))

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()
