"""The sub-application at `/ui`: its routes, static files, security headers, and errors as pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.services import Services
from api.ui.access import LoginNeededError, known_visitor
from api.ui.rendering import PREFIX, STATIC, environment, render
from api.ui.routes import deployments, drafts, exports, files, home, jobs, login, new, packs, playground, reference
from eda_service.errors import EdaError, InputError, NotFoundError
from eda_service.named_routes import reworded

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_PAGES = {
    "adaptations": "Jobs",
    "deployments": "Deployments",
    "drafts": "Drafts",
    "files": "Prompts",
    "jobs": "Jobs",
    "models": "Deployments",
    "packs": "Packs",
}
_TITLES = {400: "Not possible", 401: "Not logged in", 403: "Not allowed", 404: "Not here", 409: "Not now"}


def create_ui(services: Services, document: Callable[[], dict[str, Any]]) -> FastAPI:
    """Make the application of the pages over the services of the application that mounts it.

    Args:
        services: Services whose data the pages show, and which they call.
        document: Function that makes the OpenAPI document of that application.
    """
    environment()  # now, not while the first visitor waits
    ui = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    ui.state.services, ui.state.document = services, document
    ui.mount("/static", _Static(directory=STATIC), name="static")
    for module in (login, home, new, jobs, files, drafts, packs, exports, deployments, playground, reference):
        ui.include_router(module.router)
    for kind in (EdaError, RequestValidationError, HTTPException, *errors.DATABASE_ERRORS):
        ui.add_exception_handler(kind, _on_error)
    ui.add_middleware(_Headers)
    return ui


class _Static(StaticFiles):
    """Serves static files, whose address changes with their content."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        """Return a file with a header that lets browsers cache it for good."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they come
        response.headers["cache-control"] = "public, max-age=31536000, immutable"
        return response


class _Headers:
    """Adds the security headers to every answer; pages must not be cached."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _on_error(request: Request, error: Exception) -> Response:
    """Return an error as a page for browsers, and as the API's error object for scripts."""
    found = _as_ours(error)
    if "text/html" not in request.headers.get("accept", ""):
        return errors.response_of(found)
    if isinstance(found, LoginNeededError):
        return _to_login(request)
    status = errors.status_of(found)
    title = _TITLES.get(status, "Something failed" if status >= 500 else "Not possible")
    message = reworded(found.message, _page)
    return render(request, "error.html", known_visitor(request), status=status, title=title, message=message)


def _page(resource: str, one: str | None) -> str | None:
    """The page that shows what a route does."""
    label = _PAGES.get(resource)
    return None if label is None else f"the page {label}" if one is None else f"the page of {one}"


def _as_ours(error: Exception) -> EdaError:
    if isinstance(error, EdaError):
        return error
    if isinstance(error, errors.DATABASE_ERRORS):
        return errors.database_error(error)
    if isinstance(error, RequestValidationError):
        message, param = errors.validation_message(error.errors(), skip=1)
        return InputError(message, param=param)
    assert isinstance(error, HTTPException)
    kind = NotFoundError if error.status_code == 404 else InputError
    return kind("there is no such page" if error.status_code == 404 else str(error.detail))


def _to_login(request: Request) -> Response:
    query = f"?{request.url.query}" if request.url.query else ""
    asked = request.url.path.removeprefix(PREFIX) + query if request.method == "GET" else "/"
    return RedirectResponse(f"{PREFIX}/login?to={quote(asked)}", status_code=303)
