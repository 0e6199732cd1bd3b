"""The operations on jobs of every kind, drafts and measurements as values, once for both clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eda_service.client.answers.answers import JobEvent, LogChunk, Page
from eda_service.client.answers.task_answers import DeletedJob, Draft, Job, Measurement
from eda_service.client.calls.calls import Call, given, idempotent, job_path, one, page_of
from eda_service.errors import InputError
from eda_service.names import NAME_RULE
from eda_service.references import Alias, Reference

_JOBS, _DRAFTS, _MEASUREMENTS = "/v1/jobs", "/v1/drafts", "/v1/measurements"


def job(job_id: str) -> Call[Job]:
    """One job."""
    return Call("GET", job_path(_JOBS, job_id), one(Job), repeatable=True)


def jobs(
    *,
    limit: int,
    after: str | None,
    status: str | None,
    kind: str | None,
    metadata: Mapping[str, str] | None,
    prefix: str | None = None,
) -> Call[Page[Job]]:
    """Jobs, newest first."""
    labels = {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
    params = given(limit=limit, after=after, status=status, kind=kind, prefix=prefix) | labels
    return Call("GET", _JOBS, page_of(Job), params=params, repeatable=True)


def delete_job(job_id: str) -> Call[DeletedJob]:
    """Delete a job that has ended."""
    return Call("DELETE", job_path(_JOBS, job_id), one(DeletedJob))


def cancel(job_id: str) -> Call[Job]:
    """Stop a job."""
    return Call("POST", f"{job_path(_JOBS, job_id)}/cancel", one(Job))


def retry(job_id: str) -> Call[Job]:
    """Queue a failed or cancelled job again."""
    return Call("POST", f"{job_path(_JOBS, job_id)}/retry", one(Job))


def set_priority(job_id: str, priority: int) -> Call[Job]:
    """Move a queued job up or down."""
    return Call("POST", job_path(_JOBS, job_id), one(Job), json={"priority": priority})


def events(job_id: str, *, after: str | None, limit: int = 100) -> Call[Page[JobEvent]]:
    """Events, oldest first."""
    params = given(limit=limit, after=after)
    return Call("GET", f"{job_path(_JOBS, job_id)}/events", page_of(JobEvent), params=params, repeatable=True)


def logs(job_id: str, *, stage: str | None, tail: int) -> Call[LogChunk]:
    """The last lines of a log."""
    params = given(stage=stage, tail=tail)
    return Call("GET", f"{job_path(_JOBS, job_id)}/logs", one(LogChunk), params=params, repeatable=True)


def import_draft(body: Mapping[str, Any], idempotency_key: str | None) -> Call[Job]:
    """Queue the import of a draft."""
    return Call("POST", _DRAFTS, one(Job), json=body, headers=idempotent(idempotency_key), repeatable=True)


def draft(reference: str) -> Call[Draft]:
    """One draft with its check."""
    return Call("GET", _draft(reference), one(Draft), repeatable=True)


def drafts(*, limit: int, after: str | None) -> Call[Page[Draft]]:
    """Drafts by name and version."""
    return Call("GET", _DRAFTS, page_of(Draft), params=given(limit=limit, after=after), repeatable=True)


def delete_draft(reference: str) -> Call[None]:
    """Remove a registered draft."""
    return Call("DELETE", _draft(reference), lambda _: None)


def measure(body: Mapping[str, Any], idempotency_key: str | None) -> Call[Job]:
    """Queue a measurement."""
    return Call("POST", _MEASUREMENTS, one(Job), json=body, headers=idempotent(idempotency_key), repeatable=True)


def measurement(job_id: str) -> Call[Measurement]:
    """One measurement."""
    return Call("GET", job_path(_MEASUREMENTS, job_id), one(Measurement), repeatable=True)


def _draft(reference: str) -> str:
    found = Reference.parse(reference)
    if found is None or isinstance(found.version, Alias):
        raise InputError(f"{reference[:96]!r} is no name@version; a name is {NAME_RULE}", param="draft")
    return f"{_DRAFTS}/{found}"
