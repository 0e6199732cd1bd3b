"""The queue as plain Python: lists and loops that say what the store must do, to be compared with it step by step.

It is written from the contract alone and shares no code with the store: the table of moves is spelt out again.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOVES = {
    "queued": {"running", "failed", "cancelled"},
    "running": {"succeeded", "failed", "cancelling", "queued"},
    "cancelling": {"cancelled", "succeeded", "failed"},
    "succeeded": set(),
    "failed": {"queued"},
    "cancelled": {"queued"},
}
ENDED = {"succeeded", "failed", "cancelled"}
OCCUPYING = {"running", "cancelling"}


class RefusedError(Exception):
    """The store must refuse, with an error of this name."""


@dataclass
class ModelJob:
    """One job, and everything that was ever told about it."""

    id: str
    owner: str
    content: object
    priority: int
    has_webhook: bool
    is_hopeless: bool = False  # it asks for more than the cluster has
    status: str = "queued"
    attempt: int = 0
    not_before: int = 0
    holder: str | None = None
    token: int = 0
    lease_until: int = 0
    lines_read: int = 0
    events: list[str] = field(default_factory=lambda: ["job_created"])
    told: list[str] = field(default_factory=list)  # types of outbox rows


class QueueModel:
    """All jobs, in order of arrival."""

    def __init__(self) -> None:
        self.jobs: list[ModelJob] = []
        self.keys: dict[tuple[str, str], tuple[object, str]] = {}

    def job(self, job_id: str) -> ModelJob:
        return next(job for job in self.jobs if job.id == job_id)

    def expected_of_create(
        self, owner: str, content: object, key: str | None, request: object, force: bool
    ) -> str | None:
        """Id of the job that a request joins or replays; None: it makes one."""
        if key is not None and (owner, key) in self.keys:
            known_request, job_id = self.keys[owner, key]
            if known_request != request:
                raise RefusedError("ConflictError")
            return job_id
        equal = [j for j in self.jobs if (j.owner, j.content) == (owner, content) and j.status in {"queued", "running"}]
        return equal[-1].id if equal and not force else None

    def require_room(self, owner: str, limit: int) -> None:
        if sum(job.owner == owner and job.status == "queued" for job in self.jobs) >= limit:
            raise RefusedError("QuotaExceededError")

    def claim(
        self, now: int, holder: str, lease_s: int, max_running: int, per_owner: int | None, *, grows: bool
    ) -> ModelJob | None:
        busy = [job.owner for job in self.jobs if job.status in OCCUPYING and not job.is_hopeless]
        one_waits = any(job.status in OCCUPYING and job.is_hopeless for job in self.jobs)

        def may_start(job: ModelJob) -> bool:
            if job.is_hopeless:
                return grows and not one_waits
            return len(busy) < max_running and (per_owner is None or busy.count(job.owner) < per_owner)

        ready = [job for job in self.jobs if job.status == "queued" and job.not_before <= now and may_start(job)]
        if not ready:
            return None
        job = max(ready, key=lambda each: each.priority)  # `max` takes the first of equals: FIFO
        job.status, job.attempt = "running", job.attempt + 1
        job.holder, job.token, job.lease_until = holder, job.token + 1, now + lease_s
        job.events.append("attempt_started")
        return job

    def hold(self, now: int, holder: str, lease_s: int) -> list[ModelJob]:
        held = []
        for job in self.jobs:
            is_free = job.holder is None or job.lease_until <= now
            if job.status in OCCUPYING and (job.holder == holder or is_free):
                job.token += job.holder != holder
                job.holder, job.lease_until = holder, now + lease_s
                held.append(job)
        return held

    def release(self, holder: str) -> None:
        for job in self.jobs:
            if job.holder == holder:
                job.holder, job.lease_until = None, 0

    def check_token(self, job: ModelJob, token: int | None) -> None:
        if token is not None and token != job.token:
            raise RefusedError("LeaseLostError")

    def transition(self, job: ModelJob, to: str, event: str, token: int | None, not_before: int) -> None:
        self.check_token(job, token)
        if to not in MOVES[job.status]:
            raise RefusedError("ConflictError")
        job.status, job.not_before = to, not_before
        job.events.append(event)
        if to not in OCCUPYING:
            job.holder, job.lease_until = None, 0
        if to in ENDED and job.has_webhook:
            job.told.append(f"adaptation.{to}")

    def import_events(self, job: ModelJob, start: int, names: list[str], token: int | None) -> None:
        self.check_token(job, token)
        if start > job.lines_read:
            raise RefusedError("ConflictError")
        fresh = names[job.lines_read - start :]
        job.events += fresh
        job.lines_read += len(fresh)
