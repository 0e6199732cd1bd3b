"""`/v1/fine_tuning/jobs`: adaptations under OpenAI's names, so that its clients drive them unchanged."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from openai.types.fine_tuning import FineTuningJob

from api.jobs.schemas_fine_tuning import FineTuningEventList, FineTuningJobList, FineTuningRequest, event_of, job_of
from api.routes.adaptations import IdempotencyKey, Limit, event_number, labels_of
from api.routes.deps import AdaptationsDep, JobId, ReaderDep, WriterDep

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

After = Annotated[str | None, Query(max_length=64, description="id of the last item of the page before")]


@router.post("")
def create(
    body: FineTuningRequest, caller: WriterDep, adaptations: AdaptationsDep, idempotency_key: IdempotencyKey = None
) -> FineTuningJob:
    """Queue an adaptation (`client.fine_tuning.jobs.create`)."""
    job, _ = adaptations.create(body.to_adaptation(), caller, idempotency_key)
    return job_of(job)


@router.get("")
def page(
    request: Request, caller: ReaderDep, adaptations: AdaptationsDep, limit: Limit = 20, after: After = None
) -> FineTuningJobList:
    """Jobs, newest first (`client.fine_tuning.jobs.list`)."""
    jobs, has_more = adaptations.page(caller, limit=limit, after=after, status=None, labels=labels_of(request))
    return FineTuningJobList(data=[job_of(job) for job in jobs], has_more=has_more)


@router.get("/{job_id}")
def get(job_id: JobId, caller: ReaderDep, adaptations: AdaptationsDep) -> FineTuningJob:
    """One job (`client.fine_tuning.jobs.retrieve`)."""
    return job_of(adaptations.get(job_id, caller))


@router.post("/{job_id}/cancel")
def cancel(job_id: JobId, caller: WriterDep, adaptations: AdaptationsDep) -> FineTuningJob:
    """Stop a job (`client.fine_tuning.jobs.cancel`)."""
    return job_of(adaptations.cancel(job_id, caller))


@router.get("/{job_id}/events")
def events(
    job_id: JobId, caller: ReaderDep, adaptations: AdaptationsDep, limit: Limit = 20, after: After = None
) -> FineTuningEventList:
    """Events of a job, newest first (`client.fine_tuning.jobs.list_events`)."""
    found, has_more = adaptations.newest_events(job_id, caller, before=event_number(after), limit=limit)
    return FineTuningEventList(data=[event_of(event) for event in found], has_more=has_more)
