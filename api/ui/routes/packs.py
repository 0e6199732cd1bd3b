"""Published packs and what they measured."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from api.deps import DirectoryDep, PacksDep
from api.services import views
from api.ui.access import LookerDep
from api.ui.rendering import render, service_url
from api.ui.serving_charts import over_versions
from api.ui.snippets import asking, serving
from eda_service.names import MAX_NAME_CHARACTERS

router = APIRouter(prefix="/packs")

_PAGE = 20
_SHOWN = 5
_VERSIONS = 50


@router.get("")
def page(
    request: Request,
    visitor: LookerDep,
    packs: PacksDep,
    after: Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)] = None,
) -> Response:
    """Packs by name, with their newest versions."""
    names = [name for name in packs.names(visitor.caller) if after is None or name > after]
    found, counts = [], {}
    for name in names[:_PAGE]:
        versions = packs.versions(name, visitor.caller)
        found.append(views.pack_body(name, versions, packs, visitor.caller, shown=versions[-_SHOWN:]))
        counts[name] = len(versions)
    return render(request, "packs.html", visitor, packs=found, counts=counts, has_more=len(names) > _PAGE, after=after)


@router.get("/{name}")
def one(
    request: Request,
    name: Annotated[str, Path(max_length=MAX_NAME_CHARACTERS)],
    visitor: LookerDep,
    packs: PacksDep,
    directory: DirectoryDep,
    before: Annotated[int | None, Query(ge=1, le=1 << 31)] = None,
) -> Response:
    """One pack: acceptance over its versions, which deployments serve it, and how to ask one."""
    versions = packs.versions(name, visitor.caller)
    older = [each for each in versions if before is None or each.version < before]
    pack = views.pack_body(name, versions, packs, visitor.caller, shown=older[-_VERSIONS:])
    served_by = [
        each.name
        for each in directory.deployments(visitor.caller)
        if each.pack is not None and each.pack.partition("@")[0] == name
    ]
    url, needs_key = service_url(request), not visitor.is_open
    return render(
        request,
        "pack.html",
        visitor,
        pack=pack,
        chart=over_versions(versions),
        has_more=len(older) > _VERSIONS,
        before=before,
        served_by=served_by,
        snippets=asking(url, served_by[0], needs_key=needs_key)
        if served_by
        else serving(url, pack.versions[0], needs_key=needs_key),
    )
