"""The jobs resource: create, look, cancel, retry. It changes rows; the dispatcher makes the cluster follow."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from api.schemas import AdaptationRequest
from api.services import inputs
from api.services.submission import to_config
from api.settings import Settings
from eda_service.artifacts.files import sha256_text
from eda_service.artifacts.rundir import RunDir
from eda_service.errors import ConflictError, NotFoundError
from eda_service.jobstore import Event, Job, JobStore, Status
from eda_service.records import STAGES, EvalReport, Stage

_MAX_LOG_BYTES = 1 << 20


class Adaptations:
    """Jobs, for one caller.

    Args:
        store: The queue.
        settings: Where things are.
        wake: Called after a change, so that the dispatcher does not wait for its next tick.
    """

    def __init__(self, store: JobStore, settings: Settings, wake: Callable[[], None]) -> None:
        self._store, self._settings, self._wake = store, settings, wake

    def create(self, request: AdaptationRequest, idempotency_key: str | None) -> tuple[Job, bool]:
        """Check a request and queue it; returns the job and whether it is new.

        Raises:
            InputError: The request cannot work; `param` says why.
            ConflictError: The idempotency key belongs to another request.
        """
        config = inputs.check(to_config(request), home=self._settings.home, roots=self._settings.allowed_roots)
        job, made = self._store.create(
            config,
            labels=request.metadata,
            priority=request.priority,
            max_attempts=self._settings.max_attempts,
            idempotency_key=idempotency_key,
            request_sha256=sha256_text(json.dumps(request.model_dump(mode="json"), sort_keys=True)),
            force=request.force,
        )
        self._wake()
        return job, made

    def get(self, job_id: str) -> Job:
        """One job."""
        return self._store.get(job_id)

    def page(
        self, *, limit: int, after: str | None, status: Status | None, labels: Mapping[str, str]
    ) -> tuple[list[Job], bool]:
        """A page of jobs, newest first, and whether there are more."""
        return self._store.page(limit=limit, after=after, status=status, labels=labels)

    def cancel(self, job_id: str) -> Job:
        """Stop a job: at once when it is queued, else once its processes are gone. Cancelling twice is no error."""
        job = self._store.get(job_id)
        if job.status in {Status.CANCELLING, Status.CANCELLED}:
            return job
        if job.status is Status.QUEUED:
            try:
                return self._store.transition(job_id, Status.CANCELLED, event="job_cancelled", message="while queued")
            except ConflictError:
                job = self._store.get(job_id)  # the dispatcher claimed it in between
        job = self._store.transition(job_id, Status.CANCELLING, event="cancel_requested", message="stopping")
        self._wake()
        return job

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again; stages whose records are valid are not repeated."""
        job = self._store.get(job_id)
        if job.origin == "ray":
            raise ConflictError(f"job {job_id} was started on the cluster by hand; start it there again", param="id")
        budget = job.attempt + self._settings.max_attempts - job.max_attempts
        job = self._store.transition(
            job_id, Status.QUEUED, event="job_retried", message="queued again by request", extra_attempts=max(budget, 0)
        )
        self._wake()
        return job

    def events(self, job_id: str, *, after: int, limit: int) -> tuple[list[Event], bool]:
        """Events of a job, oldest first, and whether there are more."""
        return self._store.events(job_id, after=after, limit=limit)

    def report(self, job_id: str) -> EvalReport:
        """The evaluation of a job.

        Raises:
            NotFoundError: The job has not come that far.
        """
        job = self._store.get(job_id)
        report = self._run_dir(job).read_record(EvalReport, Stage.EVALUATE, verify=False)
        if report is None:
            raise NotFoundError(f"job {job_id} is {job.status.value} and has no report; wait for its stage `evaluate`")
        return report

    def logs(self, job_id: str, stage: Stage | None, tail: int) -> tuple[Stage | None, list[str]]:
        """The last lines of a stage's log; without a stage, of the latest stage that logged."""
        run = self._run_dir(self._store.get(job_id))
        paths = {each: run.root / "logs" / f"{each.value}.log" for each in STAGES}
        wanted = [stage] if stage is not None else list(reversed(STAGES))
        for each in wanted:
            if paths[each].is_file():
                return each, _tail(paths[each], tail)
        return stage, []

    def _run_dir(self, job: Job) -> RunDir:
        return RunDir.of_job(job.id, self._settings.home)


def _tail(path: Path, num_lines: int) -> list[str]:
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _MAX_LOG_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    return list(deque(text.splitlines(), maxlen=num_lines))
