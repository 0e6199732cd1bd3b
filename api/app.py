"""The application factory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import errors, routes
from api.describe import describe
from api.middleware import Envelope
from api.services.adaptations import Adaptations
from api.services.deployments import DeploymentService
from api.services.directory import Directory
from api.services.disk import Disk
from api.services.dispatcher import Dispatcher
from api.services.drafts import Drafts
from api.services.exports import Exports
from api.services.feed import EventFeed
from api.services.files import Files
from api.services.gateway import Gateway
from api.services.history import ServingHistory
from api.services.instruments import Instruments
from api.services.jobs import Jobs
from api.services.key_watch import KeyWatch
from api.services.limits import Limits
from api.services.measurements import Measurements
from api.services.metrics import Metrics
from api.services.pack_removal import PackRemoval
from api.services.packs import PackService
from api.services.targets import Targets
from api.services.tasks import TaskChecks
from api.settings import Settings
from api.ui.app import create_ui
from api.vault import open_vault
from eda_service import __version__
from eda_service.jobstore import JobStore
from eda_service.targets.hub import Hub


def create_app(settings: Settings) -> FastAPI:
    """Build the API over one database; its dispatcher runs while the application does.

    Args:
        settings: Where the database, the cluster and Serve are.

    Returns:
        The application; `state.settings` holds what it was built with.
    """
    store = JobStore(settings.store_url, vault=open_vault(settings))
    store.seal_secrets()
    instruments = Instruments()
    dispatcher = Dispatcher(store, settings, instruments)
    keys = KeyWatch(store)
    gateway = Gateway(settings.serve_url, instruments, keys)
    directory = Directory(store)
    found = Metrics(store, directory, instruments, settings, dispatcher.drift)
    history = ServingHistory(store, found.readings)
    feed = EventFeed(store)

    def changed() -> None:
        directory.forget()
        dispatcher.wake()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        app.state.deployments.settle()
        dispatcher.start()
        feed.start()
        keys.start()
        history.start()
        yield
        history.stop()
        await keys.stop()
        await feed.stop()
        await gateway.close()
        found.close()
        dispatcher.stop()
        store.close()

    app = FastAPI(title="EDA service", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]  # FastAPI's documented way
    app.state.openapi, app.state.disk = app.openapi, Disk(settings.home)
    app.state.settings, app.state.store, app.state.dispatcher = settings, store, dispatcher
    app.state.gateway, app.state.feed, app.state.keys, app.state.history = gateway, feed, keys, history
    targets = Targets(Hub(), settings.hub_at_submit)
    packs = PackService(store, settings.home)
    app.state.pack_removal = PackRemoval(store, packs, settings)
    checks = TaskChecks(dispatcher.cluster, cluster_grows=settings.cluster_grows)
    drafts = Drafts(store, settings, dispatcher.wake, packs, targets, checks)
    app.state.jobs, app.state.packs, app.state.drafts = Jobs(store, settings, dispatcher.wake), packs, drafts
    files = Files(store, settings)
    app.state.files = files
    app.state.adaptations = Adaptations(
        store, settings, dispatcher.wake, targets, drafts, files, cluster=dispatcher.cluster
    )
    app.state.measurements = Measurements(store, settings, dispatcher.wake, drafts, packs, targets, checks, files)
    app.state.exports = Exports(store, settings, dispatcher.wake, packs, targets, checks)
    app.state.deployments = DeploymentService(store, packs, drafts, settings, targets, changed)
    app.state.directory, app.state.metrics, app.state.limits = directory, found, Limits(settings)
    app.add_middleware(Envelope, max_file_bytes=settings.max_file_bytes)
    errors.install(app)
    app.mount("/ui", create_ui(app.state, settings))
    for router in routes.ALL:
        app.include_router(router)
    return app
