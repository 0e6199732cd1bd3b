"""Pages of the API reference, from the OpenAPI document; the same for all visitors, so no login is needed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from api.ui.access import known_visitor
from api.ui.api_reference import sections
from api.ui.rendering import render, service_url
from eda_service.errors import NotFoundError

router = APIRouter(prefix="/docs")


@router.get("")
def overview(request: Request) -> Response:
    """Show every operation in one line."""
    found = sections(_document(request), service_url(request))
    return render(request, "api.html", known_visitor(request), sections=found)


@router.get("/{tag}")
def of_tag(request: Request, tag: Annotated[str, Path(max_length=64)]) -> Response:
    """Show the operations of a tag, with parameters, bodies and answers."""
    found = sections(_document(request), service_url(request))
    for section in found:
        if section.tag == tag:
            return render(
                request, "api_tag.html", known_visitor(request), section=section, tags=[each.tag for each in found]
            )
    raise NotFoundError(f"the API has no part {tag[:64]!r}; it has {', '.join(each.tag for each in found)}")


def _document(request: Request) -> dict[str, Any]:
    document: dict[str, Any] = request.app.state.document()
    return document
