"""Base drafts: which there are, how they were read, and what their check has measured."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from api.deps import DraftsDep
from api.services import draft_views
from api.services.drafts import Drafts
from api.ui.access import LookerDep, Visitor
from api.ui.rendering import render
from eda_service.jobstore import Job, Status

router = APIRouter(prefix="/drafts")

_PAGE = 50
_NUM_IMPORTS = 10


@router.get("")
def page(
    request: Request,
    visitor: LookerDep,
    drafts: DraftsDep,
    after: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """Drafts by name and version, and the newest imports that gave none yet."""
    found, has_more = drafts.versions(visitor.caller, limit=_PAGE, after=after)
    return render(
        request,
        "drafts.html",
        visitor,
        drafts=[draft_views.draft_body(each) for each in found],
        imports=_imports(drafts, visitor),
        has_more=has_more,
        after=after,
    )


@router.get("/{name}")
def one(
    request: Request, name: Annotated[str, Path(max_length=128)], visitor: LookerDep, drafts: DraftsDep
) -> Response:
    """One draft."""
    found = draft_views.draft_detail(drafts.draft(name, visitor.caller), drafts, visitor.caller)
    check = found.check
    readings = [] if check is None or check.declared is None else [check.declared, *check.others]
    return render(
        request,
        "draft.html",
        visitor,
        draft=found,
        readings=readings,
        num_positions=max((len(each.agreement) for each in readings), default=0),
    )


def _imports(drafts: Drafts, visitor: Visitor) -> list[Job]:
    """Imports under way, and those that have failed lately, for who may read jobs."""
    if not visitor.may("jobs:read"):
        return []
    found, _ = drafts.page(visitor.caller, limit=_NUM_IMPORTS, after=None, status=None, labels={})
    return [job for job in found if job.status is not Status.SUCCEEDED]
