"""The real application on uvicorn over loopback, in a thread; no cluster answers at its dashboard URL."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from draft_files import put_draft
from waiting import wait_for

from api.app import create_app
from api.connections import BoundedConnection
from api.local_names import LocalNames
from api.settings import Settings
from eda_service.jobstore import JobStore
from eda_service.raycluster.processes import free_port

BODY = {"model": "org/model", "base_draft": "small@1"}


@dataclass(frozen=True)
class LiveApi:
    """A running service: where it is, its home, and its queue, through which a test plays the cluster."""

    url: str
    home: Path
    store: JobStore


@contextlib.contextmanager
def live_api(root: Path, *, serve_port: int | None = None, dispatches: bool = True) -> Iterator[LiveApi]:
    """Serve until the block ends; the home has one registered base draft, `small@1`.

    Args:
        root: Of all files.
        serve_port: Where it looks for Serve; None: nobody is there.
        dispatches: Whether its dispatcher looks at the jobs.
    """
    put_draft(root / "home")
    settings = Settings(
        home=root / "home",
        local_roots=(root,),
        port=free_port(),
        serve_port=free_port() if serve_port is None else serve_port,
        hub_at_submit="skip",
        ray_dashboard_url=f"http://127.0.0.1:{free_port()}",
        dispatch_interval_s=0.2,
    )
    app = create_app(settings)
    if not dispatches:
        app.state.services.dispatcher.start = lambda: None
    config = uvicorn.Config(
        LocalNames(app, app.state.services.store.keys),
        host="127.0.0.1",
        port=settings.port,
        log_level="warning",
        ws="none",
        http=BoundedConnection,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:

        def is_up() -> bool:
            assert thread.is_alive(), "uvicorn ended"
            return server.started

        wait_for(is_up, what="uvicorn", interval_s=0.01)
        yield LiveApi(f"http://127.0.0.1:{settings.port}", settings.home, app.state.services.store)
    finally:
        server.should_exit = True
        thread.join()
