"""`client.deployments` and `client.packs`: what the endpoint serves, for both clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from eda_service.client.answers.answers import Page
from eda_service.client.answers.deployment_answers import (
    Deployment,
    DeploymentEvent,
    Pack,
    PackComparison,
    PackVersionDetail,
)
from eda_service.client.calls import deployment_calls as calls
from eda_service.client.calls.calls import Call
from eda_service.client.calls.deployment_calls import UNSET, Unset
from eda_service.client.walking import every, every_async
from eda_service.errors import EdaError

T = TypeVar("T")


class Send(Protocol):
    """Sends a call and returns its value."""

    def __call__(self, call: Call[T], /) -> T: ...


class AsyncSend(Protocol):
    """The same, awaited."""

    async def __call__(self, call: Call[T], /) -> T: ...


class NotServedError(EdaError):
    """A deployment has failed, or was not ready in time."""

    code = "not_served"


class Deployments:
    """The deployments resource.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def create(self, body: Mapping[str, Any]) -> Deployment:
        """Serve a target, or a pack over its own target, under a name; `body` is that of `POST /v1/deployments`."""
        return self._send(calls.create(body))

    def get(self, name: str) -> Deployment:
        """One deployment with its history."""
        return self._send(calls.get(name))

    def page(self, *, limit: int = 20, after: str | None = None) -> Page[Deployment]:
        """One page of deployments, by name."""
        return self._send(calls.page(limit=limit, after=after))

    def events(self, name: str, *, limit: int = 20, before: int | None = None) -> Page[DeploymentEvent]:
        """One page of what happened to a deployment, newest first; `before` is the last id of the page before."""
        return self._send(calls.events(name, limit=limit, before=before))

    def update(
        self,
        name: str,
        *,
        pack: str | Unset | None = UNSET,
        replicas: int | Mapping[str, int] | None = None,
        labels: Mapping[str, str] | None = None,
        drift: Mapping[str, Any] | None = None,
        force: bool = False,
        reason: str | None = None,
    ) -> Deployment:
        """Change what is given, of `drift` only its given fields; `pack=None` leaves the base draft alone."""
        call = calls.update(name, pack=pack, replicas=replicas, labels=labels, drift=drift, force=force, reason=reason)
        return self._send(call)

    def rollback(self, name: str, *, revision: int | None = None, reason: str | None = None) -> Deployment:
        """Serve again what a revision served; None: the last one that served something else."""
        return self._send(calls.rollback(name, revision=revision, reason=reason))

    def restart(self, name: str) -> Deployment:
        """Load a deployment that has failed once more, after its reason was put right."""
        return self._send(calls.restart(name))

    def delete(self, name: str) -> None:
        """Stop serving; running requests end."""
        self._send(calls.delete(name))

    def wait_ready(self, name: str, *, timeout_s: float = 300.0, interval_s: float = 0.5) -> Deployment:
        """Wait until requests get what the deployment wants.

        Raises:
            NotServedError: It has failed, or is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.get(name)
            if found.state == "ready":
                return found
            _require_hope(found, time.monotonic() < deadline, timeout_s)
            time.sleep(interval_s)


class Packs:
    """The packs resource.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def get(self, name: str) -> Pack:
        """One pack with its versions."""
        return self._send(calls.pack(name))

    def page(self, *, limit: int = 20, after: str | None = None) -> Page[Pack]:
        """One page of packs, by name."""
        return self._send(calls.packs(limit=limit, after=after))

    def iterate(self, *, page_size: int = 100) -> Iterator[Pack]:
        """Every pack, page after page."""
        yield from every(lambda after: self.page(limit=page_size, after=after))

    def pin_champion(self, name: str, version: int | None) -> Pack:
        """Pin a version: `name` and `name@champion` mean it, and no job's pack replaces it; None: unpin."""
        return self._send(calls.pin_champion(name, version))

    def version(self, reference: str) -> PackVersionDetail:
        """One version with all that it says of itself: name@3, name@latest, name@champion, or name."""
        return self._send(calls.pack_version(reference))

    def compare(self, reference: str, other: str | None = None) -> PackComparison:
        """Two versions (None: the champion) on the same prompts, or why they cannot be compared."""
        return self._send(calls.compare_packs(reference, other))

    def delete(self, reference: str) -> str:
        """Remove a version (name@3) that nothing uses; returns its id."""
        return self._send(calls.delete_pack(reference))


class AsyncDeployments:
    """The deployments resource.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: AsyncSend) -> None:
        self._send = send

    async def create(self, body: Mapping[str, Any]) -> Deployment:
        """Serve a target, or a pack over its own target, under a name; `body` is that of `POST /v1/deployments`."""
        return await self._send(calls.create(body))

    async def get(self, name: str) -> Deployment:
        """One deployment with its history."""
        return await self._send(calls.get(name))

    async def page(self, *, limit: int = 20, after: str | None = None) -> Page[Deployment]:
        """One page of deployments, by name."""
        return await self._send(calls.page(limit=limit, after=after))

    async def events(self, name: str, *, limit: int = 20, before: int | None = None) -> Page[DeploymentEvent]:
        """One page of what happened to a deployment, newest first; `before` is the last id of the page before."""
        return await self._send(calls.events(name, limit=limit, before=before))

    async def update(
        self,
        name: str,
        *,
        pack: str | Unset | None = UNSET,
        replicas: int | Mapping[str, int] | None = None,
        labels: Mapping[str, str] | None = None,
        drift: Mapping[str, Any] | None = None,
        force: bool = False,
        reason: str | None = None,
    ) -> Deployment:
        """Change what is given, of `drift` only its given fields; `pack=None` leaves the base draft alone."""
        call = calls.update(name, pack=pack, replicas=replicas, labels=labels, drift=drift, force=force, reason=reason)
        return await self._send(call)

    async def rollback(self, name: str, *, revision: int | None = None, reason: str | None = None) -> Deployment:
        """Serve again what a revision served; None: the last one that served something else."""
        return await self._send(calls.rollback(name, revision=revision, reason=reason))

    async def restart(self, name: str) -> Deployment:
        """Load a deployment that has failed once more, after its reason was put right."""
        return await self._send(calls.restart(name))

    async def delete(self, name: str) -> None:
        """Stop serving; running requests end."""
        await self._send(calls.delete(name))

    async def wait_ready(self, name: str, *, timeout_s: float = 300.0, interval_s: float = 0.5) -> Deployment:
        """Wait until requests get what the deployment wants.

        Raises:
            NotServedError: It has failed, or is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = await self.get(name)
            if found.state == "ready":
                return found
            _require_hope(found, time.monotonic() < deadline, timeout_s)
            await asyncio.sleep(interval_s)


class AsyncPacks:
    """The packs resource.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: AsyncSend) -> None:
        self._send = send

    async def get(self, name: str) -> Pack:
        """One pack with its versions."""
        return await self._send(calls.pack(name))

    async def page(self, *, limit: int = 20, after: str | None = None) -> Page[Pack]:
        """One page of packs, by name."""
        return await self._send(calls.packs(limit=limit, after=after))

    async def iterate(self, *, page_size: int = 100) -> AsyncIterator[Pack]:
        """Every pack, page after page."""
        async for each in every_async(lambda after: self.page(limit=page_size, after=after)):
            yield each

    async def pin_champion(self, name: str, version: int | None) -> Pack:
        """Pin a version: `name` and `name@champion` mean it, and no job's pack replaces it; None: unpin."""
        return await self._send(calls.pin_champion(name, version))

    async def version(self, reference: str) -> PackVersionDetail:
        """One version with all that it says of itself: name@3, name@latest, name@champion, or name."""
        return await self._send(calls.pack_version(reference))

    async def compare(self, reference: str, other: str | None = None) -> PackComparison:
        """Two versions (None: the champion) on the same prompts, or why they cannot be compared."""
        return await self._send(calls.compare_packs(reference, other))

    async def delete(self, reference: str) -> str:
        """Remove a version (name@3) that nothing uses; returns its id."""
        return await self._send(calls.delete_pack(reference))


def _require_hope(found: Deployment, is_in_time: bool, timeout_s: float) -> None:
    if found.state == "failed":
        raise NotServedError(f"{found.name} is not served: {found.reason}")
    if not is_in_time:
        raise NotServedError(
            f"{found.name} is still {found.state} after {timeout_s:.0f} s: {found.reason or 'loading'}"
        )
