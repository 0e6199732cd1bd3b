"""While there are no API keys, only requests to a name of this machine are answered.

A web page anywhere can make its visitor's browser send requests to 127.0.0.1 under a name of its own that resolves
there (DNS rebinding), and read the answers. The browser says that name in `Host`.
"""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import error_response
from eda_service.addresses import is_loopback
from eda_service.jobstore.keys import KeyStore

_ELSEWHERE = "without API keys the service answers to 127.0.0.1 and localhost only; make a key with `eda keys create`"


class LocalNames:
    """Wraps the application; see the module.

    Args:
        app: What answers.
        keys: Whether there are keys.
    """

    def __init__(self, app: ASGIApp, keys: KeyStore) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        is_elsewhere = scope["type"] == "http" and not _is_local(Headers(scope=scope).get("host", ""))
        if is_elsewhere and not await run_in_threadpool(self._keys.exist):
            await error_response(421, _ELSEWHERE, code="misdirected_request")(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_local(host: str) -> bool:
    name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name.lower())
