"""`/v1/adaptations`: the jobs resource."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from starlette.concurrency import run_in_threadpool

from api.auth import Caller
from api.gateway.key_watch import KeyWatch
from api.gateway.keyed_stream import EVENT_STREAM, JOB_STREAM_END, STREAM_HEADERS, KeyedStream
from api.jobs.feed import EventFeed
from api.jobs.jobs import Jobs
from api.jobs.sample_ids import sample_rank
from api.jobs.schemas import (
    AdaptationBody,
    AdaptationList,
    AdaptationRequest,
    ChangeRequest,
    EstimateBody,
    EventBody,
    EventList,
    LogsBody,
)
from api.jobs.schemas_samples import SampleList
from api.routes.deps import AdaptationsDep, FeedDep, JobId, KeysDep, PacksDep, ReaderDep, WriterDep
from api.ui.jobs.report import report_file
from eda_service.errors import InputError
from eda_service.jobstore import Status
from eda_service.records import EvalReport, Stage

router = APIRouter(prefix="/v1/adaptations", tags=["adaptations"])

Limit = Annotated[int, Query(ge=1, le=100, description="at most this many")]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255, description="a repeated key replays")]
Plot = Annotated[
    str, Path(pattern=r"^(acceptance|training|selection)$", description="acceptance, training or selection")
]

_LABEL = re.compile(r"^metadata\[(.{1,64})\]$")
_EVENT_ID = re.compile(r"^evt_(\d{1,18})$")


@router.post(
    "", status_code=201, responses={200: {"description": "an equal live job, a replay, or a dry run's estimate"}}
)
def create(
    body: AdaptationRequest,
    response: Response,
    caller: WriterDep,
    adaptations: AdaptationsDep,
    idempotency_key: IdempotencyKey = None,
) -> AdaptationBody | EstimateBody:
    """Queue an adaptation: 201 for a new job, 200 for the one that this request, or an equal live one, made before."""
    if body.dry_run:
        response.status_code = 200
        return adaptations.estimate(body, caller)
    job, made = adaptations.create(body, caller, idempotency_key)
    response.status_code = 201 if made else 200
    response.headers["location"] = f"/v1/adaptations/{job.id}"
    return adaptations.body(job)


@router.post("/estimate")
def estimate(body: AdaptationRequest, caller: WriterDep, adaptations: AdaptationsDep) -> EstimateBody:
    """Disk, steps and time of a job that is not made."""
    return adaptations.estimate(body, caller)


@router.get("")
def page(
    request: Request,
    caller: ReaderDep,
    adaptations: AdaptationsDep,
    limit: Limit = 20,
    after: Annotated[str | None, Query(max_length=64, description="id of the last job of the page before")] = None,
    status: Annotated[Status | None, Query(description="only jobs in this status")] = None,
) -> AdaptationList:
    """Jobs, newest first; `metadata[key]=value` filters by the caller's own pairs."""
    jobs, has_more = adaptations.page(caller, limit=limit, after=after, status=status, labels=labels_of(request))
    data = [adaptations.body(job, alone=False) for job in jobs]
    return AdaptationList(
        data=data,
        has_more=has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/{job_id}")
def get(job_id: JobId, caller: ReaderDep, adaptations: AdaptationsDep) -> AdaptationBody:
    """One job."""
    return adaptations.body(adaptations.get(job_id, caller))


@router.post("/{job_id}")
def change(job_id: JobId, body: ChangeRequest, caller: WriterDep, adaptations: AdaptationsDep) -> AdaptationBody:
    """Change the priority of a queued job."""
    return adaptations.body(adaptations.change(job_id, body, caller))


@router.post("/{job_id}/cancel")
def cancel(job_id: JobId, caller: WriterDep, adaptations: AdaptationsDep) -> AdaptationBody:
    """Stop a job."""
    return adaptations.body(adaptations.cancel(job_id, caller))


@router.post("/{job_id}/retry")
def retry(job_id: JobId, caller: WriterDep, adaptations: AdaptationsDep) -> AdaptationBody:
    """Queue a failed or cancelled job again."""
    return adaptations.body(adaptations.retry(job_id, caller))


@router.get("/{job_id}/events", responses={200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}})
async def events(
    request: Request,
    job_id: JobId,
    caller: ReaderDep,
    adaptations: AdaptationsDep,
    feed: FeedDep,
    keys: KeysDep,
    limit: Limit = 100,
    after: Annotated[str | None, Query(max_length=24, description="id of the last event of the page before")] = None,
    last_event_id: Annotated[str | None, Header(max_length=24, description="where a broken stream goes on")] = None,
) -> EventList:
    """Events of a job, oldest first; with `Accept: text/event-stream` a live stream that ends with the job, or with the
    key."""
    start = event_number(last_event_id or after)
    return await events_of(request, adaptations, job_id, caller, feed, keys, after=start, limit=limit)


async def events_of(
    request: Request,
    jobs: Jobs,
    job_id: str,
    caller: Caller,
    feed: EventFeed,
    keys: KeyWatch,
    *,
    after: int,
    limit: int,
) -> EventList:
    """A page of a job's events, or the live stream of them where that is asked for."""
    if EVENT_STREAM in request.headers.get("accept", ""):
        await run_in_threadpool(jobs.get, job_id, caller)  # an unknown job is a 404 and not a broken stream
        return KeyedStream(  # type: ignore[return-value]
            feed.stream(job_id, owner=caller.sees, after=after),
            keys=keys,
            key_id=caller.key_id,
            last=JOB_STREAM_END,
            media_type=EVENT_STREAM,
            headers=STREAM_HEADERS,
        )
    found, has_more = await run_in_threadpool(jobs.events, job_id, caller, after=after, limit=limit)
    data = [EventBody.of(event) for event in found]
    return EventList(
        data=data,
        has_more=has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/{job_id}/logs")
def logs(
    job_id: JobId,
    caller: ReaderDep,
    adaptations: AdaptationsDep,
    stage: Annotated[Stage | None, Query(description="default: the latest stage that logged")] = None,
    tail: Annotated[int, Query(ge=1, le=10_000, description="at most this many lines")] = 200,
    after: Annotated[int | None, Query(ge=0, le=1 << 50, description="only what came since this offset")] = None,
) -> LogsBody:
    """The last lines of a stage's log, or those since an offset."""
    found, lines, offset = adaptations.logs(job_id, caller, stage, tail, after)
    return LogsBody(id=job_id, stage=None if found is None else found.value, lines=lines, next=offset)


@router.get("/{job_id}/samples")
def samples(
    job_id: JobId,
    caller: ReaderDep,
    adaptations: AdaptationsDep,
    kept: Annotated[bool | None, Query(description="true: those that were kept; false: dropped; default: both")] = None,
    limit: Limit = 20,
    after: Annotated[str | None, Query(max_length=24, description="id of the last sample of the page before")] = None,
) -> SampleList:
    """What the target wrote and selection kept or dropped, the most valuable first."""
    rank = sample_rank(after)
    return SampleList.of(adaptations.samples(job_id, caller, kept=kept, after=rank, limit=limit))


@router.get("/{job_id}/report")
def report(job_id: JobId, caller: ReaderDep, adaptations: AdaptationsDep) -> EvalReport:
    """The evaluation of base and adapted draft."""
    return adaptations.report(job_id, caller)


@router.get("/{job_id}/report.html", response_class=HTMLResponse)
def report_page(job_id: JobId, caller: ReaderDep, adaptations: AdaptationsDep, packs: PacksDep) -> Response:
    """The evaluation as one HTML file that needs nothing else, charts included."""
    return report_file(job_id, caller, adaptations, packs)


@router.get("/{job_id}/report/{plot}.png", response_class=FileResponse)
def plot(job_id: JobId, plot: Plot, caller: ReaderDep, adaptations: AdaptationsDep) -> FileResponse:
    """A plot of the evaluation."""
    return FileResponse(adaptations.plot(job_id, caller, plot), media_type="image/png")


def labels_of(request: Request) -> dict[str, str]:
    """The `metadata[key]=value` pairs of a query."""
    return {found[1]: value for key, value in request.query_params.items() if (found := _LABEL.fullmatch(key))}


def event_number(event_id: str | None) -> int:
    """The number in an event's id; 0 without one.

    Raises:
        InputError: It is no event id.
    """
    if event_id is None:
        return 0
    found = _EVENT_ID.fullmatch(event_id)
    if found is None:
        raise InputError("after is no event id; use `last_id` of the page before", param="after")
    return int(found[1])
