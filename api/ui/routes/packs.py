"""Published packs and what they measured."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deps import PacksDep
from api.services import views
from api.ui.access import LookerDep
from api.ui.rendering import render
from eda_service.names import MAX_NAME_CHARACTERS

router = APIRouter(prefix="/packs")

_PAGE = 50


@router.get("")
def page(
    request: Request,
    visitor: LookerDep,
    packs: PacksDep,
    after: Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)] = None,
) -> Response:
    """Packs by name, with their versions."""
    names = [name for name in packs.names(visitor.caller) if after is None or name > after]
    found = [
        views.pack_body(name, packs.versions(name, visitor.caller), packs, visitor.caller) for name in names[:_PAGE]
    ]
    return render(request, "packs.html", visitor, packs=found, has_more=len(names) > _PAGE, after=after)
