"""Pages of base drafts: the list, how each was read, and the results of its check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from api.drafts import views as draft_views
from api.drafts.drafts import Drafts
from api.routes.deps import DraftsDep
from api.ui.access import FormDep, LookerDep, Visitor, WriterDep
from api.ui.forms import IMPORT_FIELDS, import_of
from api.ui.rendering import go, render
from eda_service.errors import InputError, ResourceError
from eda_service.ids import ulid
from eda_service.jobstore import Job, Status
from eda_service.targets.files.resolve import known_targets

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
    """Show drafts by name and version, and the newest imports that have made no draft yet."""
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


@router.get("/import")
def ask_import(request: Request, visitor: WriterDep) -> Response:
    """Show the form of an import."""
    return _import_form(request, visitor, {"check": "on"})


@router.post("/import")
def start_import(request: Request, visitor: WriterDep, drafts: DraftsDep, form: FormDep) -> Response:
    """Queue an import; the page of drafts shows its progress."""
    try:
        drafts.create(import_of(form), visitor.caller, form.get("key") or None)
    except (InputError, ResourceError) as error:
        return _import_form(request, visitor, form, failure=error.message, status=400)
    return go("/drafts")


@router.get("/{name}")
def one(
    request: Request, name: Annotated[str, Path(max_length=128)], visitor: LookerDep, drafts: DraftsDep
) -> Response:
    """Show one draft."""
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


def _import_form(
    request: Request, visitor: Visitor, form: Mapping[str, str], *, failure: str | None = None, status: int = 200
) -> Response:
    values = {name: form.get(name, "") for name in IMPORT_FIELDS}
    return render(
        request,
        "draft_import.html",
        visitor,
        status=status,
        form=values,
        failure=failure,
        targets=known_targets(),
        key=f"page-{ulid()}",
    )


def _imports(drafts: Drafts, visitor: Visitor) -> list[Job]:
    """List imports that run, and those that failed lately, for visitors who may read jobs."""
    if not visitor.may("jobs:read"):
        return []
    found, _ = drafts.page(visitor.caller, limit=_NUM_IMPORTS, after=None, status=None, labels={})
    return [job for job in found if job.status is not Status.SUCCEEDED]
