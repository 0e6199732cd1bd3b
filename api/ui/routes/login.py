"""Pages for login with an API key, and logout."""

from __future__ import annotations

import re

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.routes.deps import StoreDep
from api.services import services_of
from api.ui.access import FormDep, session_of
from api.ui.rendering import PREFIX, go, render, set_cookie
from api.ui.sessions import COOKIE

router = APIRouter()

_PATH = re.compile(r"^/[A-Za-z0-9_.?=&%@-][A-Za-z0-9_./?=&%@-]{0,255}$")


@router.get("/login")
def ask(request: Request, store: StoreDep, to: str = Query("/", max_length=256)) -> Response:
    """Show the login form; a service without keys needs no login."""
    return go("/") if not store.keys.exist() else _form(request, to, None)


@router.post("/login")
def login(request: Request, store: StoreDep, form: FormDep) -> Response:
    """Begin a session with a valid key."""
    key = store.keys.check(form.get("key", "").strip())
    if key is None:
        return _form(request, form.get("to", "/"), "This key is unknown, expired or revoked.")
    sessions = services_of(request).sessions
    response = go(_safe(form.get("to", "/")))
    set_cookie(request, response, sessions.seal(sessions.new(key.id)))
    return response


@router.post("/logout")
def logout(_form: FormDep) -> Response:
    """End the session."""
    response = go("/login")
    response.delete_cookie(COOKIE, path=PREFIX)
    return response


def _form(request: Request, to: str, failure: str | None) -> Response:
    sessions = services_of(request).sessions
    session = session_of(request)
    token, cookie = sessions.form_token(session), sessions.seal(session)
    response = render(
        request, "login.html", None, status=401 if failure else 200, token=token, to=_safe(to), failure=failure
    )
    set_cookie(request, response, cookie)
    return response


def _safe(path: str) -> str:
    """Return a path of these pages to continue with; for any other path, that of the first page."""
    return path if _PATH.fullmatch(path) and "//" not in path else "/"
