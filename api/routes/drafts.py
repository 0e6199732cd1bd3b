"""`/v1/drafts`: base drafts, shipped, trained and imported; importing one is a job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api.drafts import views as draft_views
from api.jobs.schemas_tasks import DeletedDraftBody, DraftDetail, DraftList, ImportRequest, JobBody
from api.routes.adaptations import IdempotencyKey, Limit
from api.routes.deps import DraftsDep, LookerDep, WriterDep

router = APIRouter(prefix="/v1/drafts", tags=["drafts"])

Name = Annotated[str, Path(max_length=128, description="name@version; without a version the newest")]


@router.post("", status_code=202, responses={200: {"description": "an equal live job, or a replay"}})
def create(
    body: ImportRequest,
    response: Response,
    caller: WriterDep,
    drafts: DraftsDep,
    idempotency_key: IdempotencyKey = None,
) -> JobBody:
    """Queue the import of a draft: 202 for a new job, 200 for the one that this request, or an equal live one, made
    before. The job's `result` is the draft."""
    job, made = drafts.create(body, caller, idempotency_key)
    response.status_code = 202 if made else 200
    response.headers["location"] = f"/v1/jobs/{job.id}"
    return JobBody.of(job)


@router.get("")
def page(
    caller: LookerDep,
    drafts: DraftsDep,
    limit: Limit = 20,
    after: Annotated[str | None, Query(max_length=128, description="id of the last draft of the page before")] = None,
) -> DraftList:
    """Drafts by name and version."""
    found, has_more = drafts.versions(caller, limit=limit, after=after)
    data = [draft_views.draft_body(each) for each in found]
    return DraftList(
        data=data,
        has_more=has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/{name}")
def get(name: Name, caller: LookerDep, drafts: DraftsDep) -> DraftDetail:
    """One draft with its check."""
    return draft_views.draft_detail(drafts.draft(name, caller), drafts, caller)


@router.delete("/{name}")
def delete(name: Name, caller: WriterDep, drafts: DraftsDep) -> DeletedDraftBody:
    """Remove a registered draft; refused while a pack, a live job or a deployment uses it."""
    return DeletedDraftBody(id=drafts.delete(name, caller))
