"""Rendering of pages: Jinja2 with everything escaped, a few filters, and the session's cookie in the answer."""

from __future__ import annotations

import datetime
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.ui.access import Visitor
from api.ui.sessions import COOKIE, LIFETIME_S
from eda_service import __version__
from eda_service.formatting import duration, percent, rate, size

PREFIX = "/ui"
STATIC = Path(__file__).parent / "static"


@cache
def environment() -> Environment:
    """Compile all templates, with their filters."""
    found = Environment(
        loader=PackageLoader("api.ui"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"moment": moment, "duration": duration, "size": size, "percent": percent, "rate": rate}
    found.filters |= {"first_sentence": first_sentence, "pack_path": pack_path, "export_path": export_path}
    found.globals |= {"asset": asset, "version": __version__}
    for name in found.list_templates():
        found.get_template(name)
    return found


def render(
    request: Request, template: str, visitor: Visitor | None, *, status: int = 200, **values: Any
) -> HTMLResponse:
    """Render a page; a browser without a session gets one."""
    text = environment().get_template(template).render(visitor=visitor, path=request.url.path, **values)
    response = HTMLResponse(text, status_code=status)
    if visitor is not None and request.cookies.get(COOKIE) != visitor.cookie:
        set_cookie(request, response, visitor.cookie)
    return response


def part(template: str, macro: str, *values: Any) -> str:
    """Render one macro of a template, for a live part of a page."""
    return str(getattr(environment().get_template(template).module, macro)(*values))


def go(path: str) -> RedirectResponse:
    """Redirect a browser after a form."""
    return RedirectResponse(PREFIX + path, status_code=303)


def set_cookie(request: Request, response: Response, value: str) -> None:
    """Store a session's cookie in the browser, out of reach of scripts and of other sites' requests."""
    response.set_cookie(
        COOKIE,
        value,
        max_age=LIFETIME_S,
        path=PREFIX,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )


def service_url(request: Request) -> str:
    """Return the address of the service as the browser sees it, for commands to copy."""
    return str(request.base_url).removesuffix("/").removesuffix(PREFIX)


@cache
def asset(name: str) -> str:
    """Return the address of a static file, which changes with the content, so that browsers may cache it for good."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"{PREFIX}/static/{name}?v={digest}"


def moment(seconds: int | None) -> str:
    """Write a point in time, in UTC."""
    if seconds is None:
        return "–"
    found = datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        found.strftime("%Y-%m-%dT%H:%M:%SZ"), found.strftime("%Y-%m-%d %H:%M:%S")
    )


def pack_path(reference: str) -> str:
    """Return the path of the page about a version of a pack."""
    return f"{PREFIX}/packs/{reference.partition('@')[0]}#{reference}"


def export_path(reference: str) -> str:
    """Where a version of a pack is exported for other engines."""
    name, _, version = reference.partition("@")
    return f"{PREFIX}/packs/{name}/export?version={version}"


def first_sentence(text: str) -> str:
    """Return the first sentence of a description."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")
