"""`client.exports`: packs as other engines load them, for both clients; what goes over the wire stands here once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import httpx
from pydantic import Field

from eda_service.client.answers.answers import Answer
from eda_service.client.answers.task_answers import Job
from eda_service.client.calls.calls import Call, idempotent, job_path, one
from eda_service.client.connection import Connection
from eda_service.client.deployments import AsyncSend, Send
from eda_service.client.errors import unreachable
from eda_service.errors import InputError
from eda_service.names import NAME_RULE
from eda_service.references import Reference

_ROOT = "/v1/exports"


class ExportOffer(Answer):
    """One form that a pack can be exported in; `refused` says why it cannot."""

    to: str
    form: str
    needs_answers: bool = False
    dialects: tuple[str, ...] = ()
    refused: str | None = None


class ExportOffers(Answer):
    """Everything that a version of a pack can be exported to."""

    pack: str
    data: tuple[ExportOffer, ...] = ()


class ExportedFile(Answer):
    """One file of an export."""

    path: str
    size_bytes: int
    sha256: str


class Export(Job):
    """An export: its job, and once it has succeeded its files and the command that serves them."""

    pack: str
    to: str
    form: str
    dialect: str | None = None
    serve_command: str | None = None
    needs: tuple[str, ...] = ()
    acceptance_length: float | None = None
    exported_acceptance_length: float | None = None
    files: tuple[ExportedFile, ...] = Field(default=())
    available_until: int | None = None


def _offers(pack: str) -> Call[ExportOffers]:
    found = Reference.parse(pack)
    if found is None:
        raise InputError(f"{pack[:96]!r} names no pack; write name@3; a name is {NAME_RULE}", param="pack")
    return Call("GET", f"/v1/pack-versions/{found}/exports", one(ExportOffers), repeatable=True)


def _create(body: Mapping[str, Any], idempotency_key: str | None) -> Call[Job]:
    return Call("POST", _ROOT, one(Job), json=body, headers=idempotent(idempotency_key), repeatable=True)


def _get(job_id: str) -> Call[Export]:
    return Call("GET", job_path(_ROOT, job_id), one(Export), repeatable=True)


def _archive(job_id: str) -> Call[bytes]:
    return Call("GET", f"{job_path(_ROOT, job_id)}/archive", bytes, is_binary=True)


@contextmanager
def _written(path: Path, base_url: str) -> Iterator[BinaryIO]:
    """A file that is there whole or not at all."""
    begun = path.with_name(f".{path.name}.{time.time_ns()}.part")
    try:
        with begun.open("xb") as stream:
            yield stream
        begun.replace(path)
    except httpx.RequestError as error:
        raise unreachable(base_url, error) from error
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}; name another file", param="path") from error
    finally:
        begun.unlink(missing_ok=True)


class Exports:
    """The exports resource.

    Args:
        send: The client's way to the service.
        http: The client's connections.
        connection: Its settings.
    """

    def __init__(self, send: Send, http: httpx.Client, connection: Connection) -> None:
        self._send, self._http, self._connection = send, http, connection

    def offers(self, pack: str) -> ExportOffers:
        """What a version of a pack can be exported to, and what is refused and why."""
        return self._send(_offers(pack))

    def create(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue an export; `body` is that of `POST /v1/exports`."""
        return self._send(_create(body, idempotency_key))

    def get(self, job_id: str) -> Export:
        """One export, with its files and its command once it has succeeded."""
        return self._send(_get(job_id))

    def download(self, job_id: str, path: str | Path) -> Path:
        """Write the archive of an export into a file; nothing of it is held in memory.

        Raises:
            ApiError: It is not made yet, or no longer kept.
            ServiceUnreachableError: The connection broke; the file is as it was.
            InputError: The file cannot be written.
        """
        call, place = _archive(job_id), Path(path)
        request = call.request(self._http, timeout=self._connection.stream_timeout())
        with _written(place, self._connection.base_url) as stream:
            response = self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    call.read(response)
                for chunk in response.iter_bytes():
                    stream.write(chunk)
            finally:
                response.close()
        return place


class AsyncExports:
    """`Exports`, awaited.

    Args:
        send: The client's way to the service.
        http: The client's connections.
        connection: Its settings.
    """

    def __init__(self, send: AsyncSend, http: httpx.AsyncClient, connection: Connection) -> None:
        self._send, self._http, self._connection = send, http, connection

    async def offers(self, pack: str) -> ExportOffers:
        """What a version of a pack can be exported to, and what is refused and why."""
        return await self._send(_offers(pack))

    async def create(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue an export; `body` is that of `POST /v1/exports`."""
        return await self._send(_create(body, idempotency_key))

    async def get(self, job_id: str) -> Export:
        """One export, with its files and its command once it has succeeded."""
        return await self._send(_get(job_id))

    async def download(self, job_id: str, path: str | Path) -> Path:
        """Write the archive of an export into a file; nothing of it is held in memory.

        Raises:
            ApiError: It is not made yet, or no longer kept.
            ServiceUnreachableError: The connection broke; the file is as it was.
            InputError: The file cannot be written.
        """
        call, place = _archive(job_id), Path(path)
        request = call.request(self._http, timeout=self._connection.stream_timeout())
        with _written(place, self._connection.base_url) as stream:
            response = await self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    call.read(response)
                async for chunk in response.aiter_bytes():
                    stream.write(chunk)
            finally:
                await response.aclose()
        return place
