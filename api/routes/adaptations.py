"""`/v1/adaptations`: the jobs resource."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response

from api.deps import AdaptationsDep
from api.schemas import AdaptationBody, AdaptationList, AdaptationRequest, EventBody, EventList, LogsBody
from eda_service.errors import InputError
from eda_service.jobstore import Status
from eda_service.records import EvalReport, Stage

router = APIRouter(prefix="/v1/adaptations", tags=["adaptations"])

JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="job id")]
Limit = Annotated[int, Query(ge=1, le=100, description="at most this many")]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255, description="a repeated key replays")]

_LABEL = re.compile(r"^metadata\[(.{1,64})\]$")
_EVENT_ID = re.compile(r"^evt_(\d{1,18})$")


@router.post("", status_code=201)
def create(
    body: AdaptationRequest, response: Response, adaptations: AdaptationsDep, idempotency_key: IdempotencyKey = None
) -> AdaptationBody:
    """Queue an adaptation: 201 for a new job, 200 for the one that this request, or an equal live one, made before."""
    job, made = adaptations.create(body, idempotency_key)
    response.status_code = 201 if made else 200
    response.headers["location"] = f"/v1/adaptations/{job.id}"
    return AdaptationBody.of(job)


@router.get("")
def page(
    request: Request,
    adaptations: AdaptationsDep,
    limit: Limit = 20,
    after: Annotated[str | None, Query(max_length=64, description="id of the last job of the page before")] = None,
    status: Annotated[Status | None, Query(description="only jobs in this status")] = None,
) -> AdaptationList:
    """Jobs, newest first; `metadata[key]=value` filters by the caller's own pairs."""
    labels = {found[1]: value for key, value in request.query_params.items() if (found := _LABEL.match(key))}
    jobs, has_more = adaptations.page(limit=limit, after=after, status=status, labels=labels)
    data = [AdaptationBody.of(job) for job in jobs]
    return AdaptationList(
        data=data,
        has_more=has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/{job_id}")
def get(job_id: JobId, adaptations: AdaptationsDep) -> AdaptationBody:
    """One job."""
    return AdaptationBody.of(adaptations.get(job_id))


@router.post("/{job_id}/cancel")
def cancel(job_id: JobId, adaptations: AdaptationsDep) -> AdaptationBody:
    """Stop a job."""
    return AdaptationBody.of(adaptations.cancel(job_id))


@router.post("/{job_id}/retry")
def retry(job_id: JobId, adaptations: AdaptationsDep) -> AdaptationBody:
    """Queue a failed or cancelled job again."""
    return AdaptationBody.of(adaptations.retry(job_id))


@router.get("/{job_id}/events")
def events(
    job_id: JobId,
    adaptations: AdaptationsDep,
    limit: Limit = 100,
    after: Annotated[str | None, Query(max_length=24, description="id of the last event of the page before")] = None,
) -> EventList:
    """Events of a job, oldest first."""
    found, has_more = adaptations.events(job_id, after=_event_number(after), limit=limit)
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
    adaptations: AdaptationsDep,
    stage: Annotated[Stage | None, Query(description="default: the latest stage that logged")] = None,
    tail: Annotated[int, Query(ge=1, le=10_000, description="at most this many lines")] = 200,
) -> LogsBody:
    """The last lines of a stage's log."""
    found, lines = adaptations.logs(job_id, stage, tail)
    return LogsBody(id=job_id, stage=None if found is None else found.value, lines=lines)


@router.get("/{job_id}/report")
def report(job_id: JobId, adaptations: AdaptationsDep) -> EvalReport:
    """The evaluation of base and adapted draft."""
    return adaptations.report(job_id)


def _event_number(event_id: str | None) -> int:
    if event_id is None:
        return 0
    found = _EVENT_ID.match(event_id)
    if found is None:
        raise InputError("after is no event id; use `last_id` of the page before", param="after")
    return int(found[1])
