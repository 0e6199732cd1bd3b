"""The way from this process to Ray Serve: one pooled HTTP client, bodies and streams passed on unchanged."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
from fastapi import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from eda_service.errors import ResourceError

logger = logging.getLogger(__name__)

# Only these go through: Serve's own `x-request-*` headers would let a client switch its timeouts off.
_REQUEST_HEADERS = ("content-type", "accept", "user-agent")
_RESPONSE_HEADERS = ("content-type", "cache-control", "retry-after", "x-should-retry", "x-accel-buffering")
_PROXY_STATUS = (404, 500, 503)
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 600.0  # between two pieces of an answer; a full queue may hold the first one back


class EndpointUnavailableError(ResourceError):
    """Ray Serve does not answer: nothing is served yet, or it is starting."""

    code = "endpoint_unavailable"
    retryable = True


class Gateway:
    """Forwards requests to one Serve instance.

    Args:
        serve_url: Base URL of Ray Serve.
    """

    def __init__(self, serve_url: str) -> None:
        timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
        self._http = httpx.AsyncClient(base_url=serve_url, timeout=timeout, limits=limits, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def forward(self, request: Request) -> Response:
        """Pass a request on and its answer back, streamed when it is a stream.

        Raises:
            EndpointUnavailableError: Serve does not answer.
        """
        headers = {name: request.headers[name] for name in _REQUEST_HEADERS if name in request.headers}
        headers["x-request-id"] = request.state.request_id  # one id in both processes' logs
        onward = self._http.build_request(
            request.method, request.url.path, headers=headers, content=await request.body() or None
        )
        try:
            response = await self._http.send(onward, stream=True)
        except httpx.HTTPError as error:
            logger.warning("Serve does not answer: %s", type(error).__name__)
            raise EndpointUnavailableError(
                "the endpoint does not answer yet; it starts with the first finished job, see GET /health"
            ) from error
        if response.status_code in _PROXY_STATUS and "json" not in response.headers.get("content-type", ""):
            await response.aclose()  # the word of Serve's proxy, not of our application
            raise EndpointUnavailableError("the endpoint is being started; see GET /health")
        passed = {name: response.headers[name] for name in _RESPONSE_HEADERS if name in response.headers}
        return StreamingResponse(_body(response), status_code=response.status_code, headers=passed)

    async def forward_models(self, request: Request) -> Response:
        """What is served; an empty list while Serve does not run."""
        try:
            return await self.forward(request)
        except EndpointUnavailableError:
            return JSONResponse({"object": "list", "data": []})


async def _body(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    finally:
        await response.aclose()
