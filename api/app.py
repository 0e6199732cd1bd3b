"""The application factory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import errors, routes
from api.middleware import Envelope
from api.openapi_document import openapi_document
from api.services import Services
from api.settings import Settings
from api.ui.app import create_ui
from eda_service import __version__


def create_app(settings: Settings) -> FastAPI:
    """Build the API over one database; its dispatcher runs while the application does.

    Args:
        settings: Where the database, the cluster and Serve are.

    Returns:
        The application; `state.services` holds everything that it does, and the settings that it was built with.
    """
    services = Services.over(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        services.start()
        yield
        await services.stop()

    app = FastAPI(title="EDA service", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.openapi = lambda: openapi_document(app)  # type: ignore[method-assign]  # FastAPI's documented way
    app.state.services = services
    app.add_middleware(Envelope, max_file_bytes=settings.max_file_bytes)
    errors.install(app)
    app.mount("/ui", create_ui(services, app.openapi))
    for router in routes.ALL:
        app.include_router(router)
    return app
