"""Forwards requests from this process to Ray Serve: one pooled HTTP client, bodies and streams passed on unchanged.

The `model` of a body names the deployment; the request goes to the replicas of that deployment's group.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
from fastapi import Request
from pydantic_core import from_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.auth import Caller, InvalidKeyError
from api.errors import error_body
from api.gateway.directory import Entry
from api.gateway.key_watch import KeyWatch
from api.gateway.keyed_stream import EVENT_STREAM, OPENAI_STREAM_END, KeyedStream
from api.metrics.instruments import Instruments
from eda_service.errors import InputError, ResourceError
from eda_service.raycluster.serve_plan import UID_HEADER

logger = logging.getLogger(__name__)

# Only these go through: Serve's own `x-request-*` headers would let a client switch its timeouts off.
_REQUEST_HEADERS = ("content-type", "accept", "user-agent")
_RESPONSE_HEADERS = ("content-type", "cache-control", "retry-after", "x-should-retry", "x-accel-buffering")
_DONE = b"data: [DONE]\n\n"
_PROXY_STATUS = (500, 503)
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 3600.0  # for a replica that hangs; a request's own deadline (EDA_REQUEST_TIMEOUT_S) comes first


class EndpointUnavailableError(ResourceError):
    """A deployment does not answer yet: its model is being loaded, or Ray Serve is starting."""

    code = "endpoint_unavailable"
    retryable = True


class DeploymentFailedError(ResourceError):
    """A deployment cannot be loaded, and is not tried again until it is changed."""

    code = "deployment_failed"


class ReplicaLostError(ResourceError):
    """A replica ended in the middle of an answer."""

    code = "replica_lost"
    retryable = True


class InvalidJsonError(InputError):
    """A request's body is not readable JSON."""

    code = "invalid_json"


class Gateway:
    """Forwards requests to one Serve instance.

    Args:
        serve_url: Base URL of Ray Serve.
        instruments: Counters of the answers.
        keys: Watch that reports when a request's key is no longer valid.
    """

    def __init__(self, serve_url: str, instruments: Instruments, keys: KeyWatch) -> None:
        self._responses, self._keys = instruments.responses, keys
        timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
        self._http = httpx.AsyncClient(base_url=serve_url, timeout=timeout, limits=limits, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def forward(
        self, request: Request, entry: Entry, caller: Caller, *, ended: Callable[[], None] | None = None
    ) -> Response:
        """Pass a request on to its group and return the answer, streamed if the answer is a stream.

        Args:
            request: Request as received.
            entry: Directory entry of the deployment that is asked.
            caller: Caller who sent the request; the answer ends when the caller's key is no longer valid.
            ended: Function called when the answer has been passed on, or the client has disconnected.

        Raises:
            DeploymentFailedError: The deployment of that name cannot be loaded.
            EndpointUnavailableError: The group does not answer, or has not loaded that name yet.
            InvalidKeyError: The key is no longer valid, and the answer has not begun.
        """
        headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
        headers["x-request-id"] = request.state.request_id  # one id in both processes' logs
        content = await request.body() or None
        path = request.url.path
        return await self.send(request.method, path, entry, caller, headers=headers, content=content, ended=ended)

    async def send(
        self,
        method: str,
        path: str,
        entry: Entry,
        caller: Caller,
        *,
        headers: Mapping[str, str],
        content: bytes | None,
        ended: Callable[[], None] | None = None,
    ) -> Response:
        """Send a request that this process makes itself to a group; otherwise like `forward`.

        Raises:
            DeploymentFailedError: The deployment of that name cannot be loaded.
            EndpointUnavailableError: The group does not answer, or has not loaded that name yet.
            InvalidKeyError: The key is no longer valid, and the answer has not begun.
        """
        if entry.failure is not None:
            self._responses.labels("503").inc()
            name = entry.deployment.name
            raise DeploymentFailedError(
                f"{name} is not served, as it cannot be loaded: {entry.failure}; sending the request again does not "
                f"help: put that right, then `eda deployments restart {name}`"
            )
        headers = {**headers, UID_HEADER: entry.deployment.uid}
        onward = self._http.build_request(method, f"{entry.route_prefix}{path}", headers=headers, content=content)
        name = entry.deployment.name
        try:
            response = await self._keys.unless_dead(caller.key_id, self._http.send(onward, stream=True))
        except InvalidKeyError:
            self._responses.labels("401").inc()
            raise
        except httpx.HTTPError as error:
            logger.warning("Serve does not answer: %s", type(error).__name__)
            raise self._unavailable(name) from error
        if response.status_code == httpx.codes.NOT_FOUND or _is_proxys(response):
            await response.aclose()  # the deployment exists: who does not know it has not come that far
            raise self._unavailable(name)
        self._responses.labels(str(response.status_code)).inc()
        passed = {name: response.headers[name] for name in _RESPONSE_HEADERS if name in response.headers}
        return _Passed(
            _body(response, name),
            behind=response,
            ended=ended,
            keys=self._keys,
            key_id=caller.key_id,
            last=OPENAI_STREAM_END if _is_stream(response) else None,
            status_code=response.status_code,
            headers=passed,
        )

    def _unavailable(self, name: str) -> EndpointUnavailableError:
        self._responses.labels("503").inc()
        return EndpointUnavailableError(f"{name} is being loaded; see GET /v1/deployments/{name}")


class _Passed(KeyedStream):
    """A replica's answer while it is passed on; when it ends for any reason, the connection to the replica is closed.

    Args:
        body: The pieces that are passed on.
        behind: The replica's answer.
        ended: Function called at the end.
    """

    def __init__(
        self, body: AsyncIterator[bytes], *, behind: httpx.Response, ended: Callable[[], None] | None, **kwargs: Any
    ) -> None:
        super().__init__(body, **kwargs)
        self._behind, self._ended = behind, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._behind.aclose()
            if self._ended is not None:
                self._ended()


@dataclass(frozen=True)
class Asked:
    """The fields of a request's body that this process reads.

    Attributes:
        model: Name of the deployment.
        draft: The draft that the request chooses; None: no choice, or not a string, which the replica then refuses.
    """

    model: str
    draft: str | None


def asked_of(body: bytes) -> Asked:
    """Return the `model` and the `draft` of a request's body; the replica checks everything else.

    Raises:
        InvalidJsonError: The body is not a JSON object.
        InputError: The body names no model.
    """
    try:
        value = from_json(body)
    except ValueError as error:
        raise InvalidJsonError("the body is not valid JSON") from error
    if not isinstance(value, dict):
        raise InvalidJsonError("the body is not a JSON object")
    name = value.get("model")
    if not isinstance(name, str) or not name:
        raise InputError("model: give the name of a deployed model; GET /v1/models lists them", param="model")
    draft = value.get("draft")
    return Asked(name, draft if isinstance(draft, str) else None)


def _is_proxys(response: httpx.Response) -> bool:
    """Whether a response is from Serve's proxy and not from the project's application."""
    return response.status_code in _PROXY_STATUS and "json" not in response.headers.get("content-type", "")


def _is_stream(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith(EVENT_STREAM)


async def _body(response: httpx.Response, name: str) -> AsyncIterator[bytes]:
    """Yield the answer as it comes; an event stream that stops in the middle ends with an error event."""
    is_stream = _is_stream(response)
    tail = b""
    try:
        async for chunk in response.aiter_raw():
            tail = (tail + chunk)[-len(_DONE) :]
            yield chunk
    except httpx.HTTPError as error:
        logger.warning("an answer of %s was cut: %s", name, type(error).__name__)
        if not is_stream:
            raise  # the server cuts the connection, which the client sees
    finally:
        await response.aclose()
    if is_stream and tail != _DONE:
        lost = ReplicaLostError(f"the replica of {name} that was answering is gone; send the request again")
        body = json.dumps(error_body(503, lost.message, param=None, code=lost.code))
        gap = b"" if tail.endswith(b"\n\n") else b"\n\n"
        yield gap + f"data: {body}\n\n".encode() + _DONE
