"""`/v1/jobs`: jobs of every kind in one list, and what can be done with any of them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request

from api.gateway.keyed_stream import EVENT_STREAM
from api.jobs.schemas import ChangeRequest, EventList, LogsBody
from api.jobs.schemas_tasks import DeletedJobBody, JobBody, JobList
from api.routes.adaptations import Limit, event_number, events_of, labels_of
from api.routes.deps import FeedDep, JobId, JobsDep, KeysDep, ReaderDep, WriterDep
from eda_service.config.tasks import JobKind
from eda_service.ids import JOB_ID_PATTERN
from eda_service.jobstore import Status
from eda_service.records import Stage

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("")
def page(
    request: Request,
    caller: ReaderDep,
    jobs: JobsDep,
    limit: Limit = 20,
    after: Annotated[str | None, Query(max_length=64, description="id of the last job of the page before")] = None,
    status: Annotated[Status | None, Query(description="only jobs in this status")] = None,
    kind: Annotated[JobKind | None, Query(description="only jobs of this kind")] = None,
    prefix: Annotated[
        str | None, Query(pattern=f"^{JOB_ID_PATTERN}$", description="only jobs whose id begins with this")
    ] = None,
) -> JobList:
    """Jobs of every kind, newest first; `metadata[key]=value` filters by the caller's own pairs."""
    labels = labels_of(request)
    found, has_more = jobs.page(
        caller, limit=limit, after=after, status=status, labels=labels, kind=kind, prefix=prefix
    )
    data = [JobBody.of(job) for job in found]
    return JobList(
        data=data,
        has_more=has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/{job_id}")
def get(job_id: JobId, caller: ReaderDep, jobs: JobsDep) -> JobBody:
    """One job."""
    return JobBody.of(jobs.get(job_id, caller))


@router.post("/{job_id}")
def change(job_id: JobId, body: ChangeRequest, caller: WriterDep, jobs: JobsDep) -> JobBody:
    """Change the priority of a queued job."""
    return JobBody.of(jobs.change(job_id, body, caller))


@router.delete("/{job_id}")
def delete(job_id: JobId, caller: WriterDep, jobs: JobsDep) -> DeletedJobBody:
    """Delete a job that has ended, with its events, logs and run directory; refused while its pack, its draft or its
    deployment is there.
    """
    return DeletedJobBody(id=job_id, freed_bytes=jobs.remove(job_id, caller))


@router.post("/{job_id}/cancel")
def cancel(job_id: JobId, caller: WriterDep, jobs: JobsDep) -> JobBody:
    """Stop a job."""
    return JobBody.of(jobs.cancel(job_id, caller))


@router.post("/{job_id}/retry")
def retry(job_id: JobId, caller: WriterDep, jobs: JobsDep) -> JobBody:
    """Queue a failed or cancelled job again."""
    return JobBody.of(jobs.retry(job_id, caller))


@router.get("/{job_id}/events", responses={200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}})
async def events(
    request: Request,
    job_id: JobId,
    caller: ReaderDep,
    jobs: JobsDep,
    feed: FeedDep,
    keys: KeysDep,
    limit: Limit = 100,
    after: Annotated[str | None, Query(max_length=24, description="id of the last event of the page before")] = None,
    last_event_id: Annotated[str | None, Header(max_length=24, description="where a broken stream goes on")] = None,
) -> EventList:
    """Events of a job, oldest first; with `Accept: text/event-stream` a live stream that ends with the job, or with the
    key."""
    start = event_number(last_event_id or after)
    return await events_of(request, jobs, job_id, caller, feed, keys, after=start, limit=limit)


@router.get("/{job_id}/logs")
def logs(
    job_id: JobId,
    caller: ReaderDep,
    jobs: JobsDep,
    stage: Annotated[Stage | None, Query(description="default: the latest stage that logged")] = None,
    tail: Annotated[int, Query(ge=1, le=10_000, description="at most this many lines")] = 200,
    after: Annotated[int | None, Query(ge=0, le=1 << 50, description="only what came since this offset")] = None,
) -> LogsBody:
    """The last lines of a stage's log, or those since an offset."""
    found, lines, offset = jobs.logs(job_id, caller, stage, tail, after)
    return LogsBody(id=job_id, stage=None if found is None else found.value, lines=lines, next=offset)
