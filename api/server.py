"""The HTTP server of the API process: stops without cutting answers short.

On a signal it stops listening, so that whoever probes it sends new requests elsewhere. Event streams of jobs end at
once, as their clients resume them at the next process; everything else gets `drain_s` to finish.
"""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from api.connections import BoundedConnection
from api.local_names import LocalNames
from api.settings import Settings


def make_server(app: FastAPI, settings: Settings) -> Server:
    """A server at the address in the settings; `run()` returns after a signal."""
    config = uvicorn.Config(
        LocalNames(app, app.state.services.store.keys),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=settings.drain_s,
        server_header=False,
        http=BoundedConnection,
        ws="none",
    )
    return Server(config, app)


class Server(uvicorn.Server):
    """`uvicorn.Server` that lets event streams go before it waits for the rest.

    Args:
        config: As uvicorn takes it.
        app: The application that `create_app` made.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: streams of events, then the listening sockets and what is open on them, then the application."""
        self._app.state.services.feed.end_streams()
        await super().shutdown(sockets)
