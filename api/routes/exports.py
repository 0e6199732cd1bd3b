"""`/v1/exports`: packs as other engines load them. Making one is a job; what it wrote is downloaded for a day."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response
from starlette.responses import StreamingResponse

from api.jobs.schemas_tasks import JobBody
from api.packs.exports import offer_body
from api.packs.schemas_exports import ExportBody, ExportOfferList, ExportRequest
from api.routes.adaptations import IdempotencyKey
from api.routes.deps import ExportsDep, JobId, LookerDep, ReaderDep, WriterDep
from api.ui.archive import archive_of

router = APIRouter(prefix="/v1", tags=["packs"])

Version = Annotated[
    str, Path(max_length=128, description="name@3, name@latest or name@champion; a name: the pinned or newest")
]


@router.get("/pack-versions/{name}/exports")
def offers(name: Version, caller: LookerDep, exports: ExportsDep) -> ExportOfferList:
    """What a version can be exported to, and what is refused and why."""
    pack, found = exports.offers(name, caller)
    return ExportOfferList(pack=pack.reference, data=[offer_body(each) for each in found])


@router.post("/exports", status_code=202, responses={200: {"description": "an equal live job, or a replay"}})
def create(
    body: ExportRequest,
    response: Response,
    caller: WriterDep,
    exports: ExportsDep,
    idempotency_key: IdempotencyKey = None,
) -> JobBody:
    """Queue an export: 202 for a new job, 200 for the one that this request, or an equal live one, made before."""
    job, made = exports.create(body, caller, idempotency_key)
    response.status_code = 202 if made else 200
    response.headers["location"] = f"/v1/exports/{job.id}"
    return JobBody.of(job)


@router.get("/exports/{job_id}")
def get(job_id: JobId, caller: ReaderDep, exports: ExportsDep) -> ExportBody:
    """One export; `serve_command` and `files` are there once it has succeeded."""
    return exports.body(exports.get(job_id, caller))


@router.get(
    "/exports/{job_id}/archive",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-tar": {}}, "description": "the files in one tar archive"}},
)
def archive(job_id: JobId, caller: ReaderDep, exports: ExportsDep) -> StreamingResponse:
    """The files that an export wrote, and the command that serves them."""
    found = exports.archive(exports.get(job_id, caller))
    return archive_of(found.directory, found.name)
