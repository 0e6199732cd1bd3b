"""`/v1/measurements`: what a draft, or a draft and a pack, gives on a target and prompts. Measuring is a job."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.jobs.schemas_tasks import JobBody, MeasurementBody, MeasureRequest
from api.routes.adaptations import IdempotencyKey
from api.routes.deps import JobId, MeasurementsDep, ReaderDep, WriterDep

router = APIRouter(prefix="/v1/measurements", tags=["measurements"])


@router.post("", status_code=202, responses={200: {"description": "an equal live job, or a replay"}})
def create(
    body: MeasureRequest,
    response: Response,
    caller: WriterDep,
    measurements: MeasurementsDep,
    idempotency_key: IdempotencyKey = None,
) -> JobBody:
    """Queue a measurement: 202 for a new job, 200 for the one that this request, or an equal live one, made before."""
    job, made = measurements.create(body, caller, idempotency_key)
    response.status_code = 202 if made else 200
    response.headers["location"] = f"/v1/measurements/{job.id}"
    return JobBody.of(job)


@router.get("/{job_id}")
def get(job_id: JobId, caller: ReaderDep, measurements: MeasurementsDep) -> MeasurementBody:
    """One measurement; `measurement` is its result once it has succeeded."""
    job = measurements.get(job_id, caller)
    return MeasurementBody.with_result(job, measurements.record(job))
