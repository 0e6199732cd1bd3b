"""Jobs of any kind: look, change, cancel, retry. It changes rows; the dispatcher makes the cluster follow."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from api.auth import Caller
from api.dispatcher.webhook_urls import check_url
from api.jobs.schemas import ChangeRequest, JobRequest
from api.settings import Settings
from eda_service.capacity import UNKNOWN, Need
from eda_service.config.tasks import JobKind, Task, draft_named_by
from eda_service.errors import BaseDraftMissingError, ConflictError
from eda_service.formatting import size
from eda_service.jobstore import Event, Job, JobStore, Status
from eda_service.records import Stage
from eda_service.references import Reference
from eda_service.storage.files import sha256_text
from eda_service.storage.published import registry
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import JobFile

logger = logging.getLogger(__name__)

_MAX_LOG_BYTES = 1 << 20


@dataclass(frozen=True)
class Queued:
    """A request that has passed its checks.

    Attributes:
        task: What to do.
        need: What the job asks the cluster for.
        warnings: What spoke against it and was overruled.
    """

    task: Task
    need: Need = UNKNOWN
    warnings: tuple[str, ...] = ()


class Jobs:
    """Jobs, as callers see them: another owner's job does not exist.

    Args:
        store: The queue.
        settings: Where things are.
        wake: Called after a change, so that the dispatcher does not wait for its next tick.
        kind: Jobs of other kinds do not exist either; None: all kinds.
    """

    def __init__(
        self, store: JobStore, settings: Settings, wake: Callable[[], None], *, kind: JobKind | None = None
    ) -> None:
        self._store, self._settings, self._wake, self._kind = store, settings, wake, kind
        self._roots = settings.roots

    def _queue(
        self, request: JobRequest, caller: Caller, idempotency_key: str | None, check: Callable[[], Queued]
    ) -> tuple[Job, bool]:
        """Check a request and queue it; returns the job and whether it is new.

        A repeated key is answered with its job, whatever has become of disk, cluster and hub since.
        """
        digest = sha256_text(json.dumps(request.model_dump(mode="json"), sort_keys=True))
        if idempotency_key is not None:
            replay = self._store.jobs.replayed(caller.owner, idempotency_key, digest)
            if replay is not None:
                return replay, False
        webhook = request.webhook
        told = None if webhook is None else {"url": self._checked_url(webhook.url), "secret": webhook.secret}
        queued = check()
        job, made = self._store.jobs.create(
            queued.task,
            owner=caller.owner,
            labels=request.metadata,
            priority=request.priority,
            max_attempts=self._settings.max_attempts,
            idempotency_key=idempotency_key,
            request_sha256=digest,
            force=request.force,
            webhook=told,
            stage_deadlines={stage.value: seconds for stage, seconds in request.stage_deadlines.items()},
            max_queued_per_owner=self._settings.max_queued_per_owner,
            need=queued.need,
            warnings=queued.warnings,
        )
        if made:
            job = self._still_there(job)
        self._wake()
        return job, made

    def _still_there(self, job: Job) -> Job:
        """Look once more, now that a job is in the queue, for the draft that it names: whoever removes one looks at the
        queue once nobody finds it any more, so that one of the two sees the other.

        Raises:
            BaseDraftMissingError: It has been removed meanwhile; the job has failed with the same code.
        """
        try:
            self._require_draft(job)
        except BaseDraftMissingError as error:
            failure = {"code": error.code, "message": error.message, "param": error.param, "retryable": False}
            try:
                self._store.jobs.transition(
                    job.id,
                    Status.FAILED,
                    event="job_failed",
                    message=f"{error.code}: {error.message}",
                    level="error",
                    error=failure,
                    only_from={Status.QUEUED},
                )
            except ConflictError:
                return self._store.jobs.get(job.id)  # it runs already, and its first stage says the same
            raise
        return job

    def _require_draft(self, job: Job) -> None:
        """Check that the draft that a job names is there.

        Raises:
            BaseDraftMissingError: It is not.
        """
        named = None if job.unreadable else draft_named_by(job.task())
        reference = None if named is None else Reference.parse(named)
        if reference is None or reference.number is None:
            return  # stage validate looks for the newest
        if reference.number not in registry.draft_versions(reference.name, self._settings.home):
            param = "draft" if job.kind is JobKind.MEASURE else "base_draft"
            raise BaseDraftMissingError(
                f"base draft {reference} has been removed; queue the job with another one", param=param
            )

    def _checked_url(self, url: str) -> str:
        return check_url(url, private=self._settings.webhook_private_addresses)

    def get(self, job_id: str, caller: Caller) -> Job:
        """One job."""
        return self._store.jobs.get(job_id, owner=caller.sees, kind=self._kind)

    def page(
        self,
        caller: Caller,
        *,
        limit: int,
        after: str | None,
        status: Status | None,
        labels: Mapping[str, str],
        kind: JobKind | None = None,
        prefix: str | None = None,
    ) -> tuple[list[Job], bool]:
        """A page of jobs, newest first, and whether there are more."""
        return self._store.jobs.page(
            limit=limit,
            after=after,
            status=status,
            labels=labels,
            owner=caller.sees,
            kind=self._kind or kind,
            prefix=prefix,
        )

    def change(self, job_id: str, request: ChangeRequest, caller: Caller) -> Job:
        """Change a queued job's priority."""
        self.get(job_id, caller)
        return self._store.jobs.set_priority(job_id, request.priority, owner=caller.sees)

    def place(self, job: Job, caller: Caller) -> tuple[int, int] | None:
        """Which of the jobs that the caller sees waiting a job is, and how many wait; None: it does not wait."""
        return self._store.jobs.place_in_queue(job, owner=caller.sees) if job.status is Status.QUEUED else None

    def cancel(self, job_id: str, caller: Caller) -> Job:
        """Stop a job: at once when it is queued, else once its processes are gone. Cancelling twice is no error."""
        job = self.get(job_id, caller)
        if job.status in {Status.CANCELLING, Status.CANCELLED}:
            return job
        if job.status is Status.QUEUED:
            try:
                return self._store.jobs.transition(
                    job_id, Status.CANCELLED, event="job_cancelled", message="while queued"
                )
            except ConflictError:
                job = self._store.jobs.get(job_id)  # the dispatcher claimed it in between
        job = self._store.jobs.transition(job_id, Status.CANCELLING, event="cancel_requested", message="stopping")
        self._wake()
        return job

    def retry(self, job_id: str, caller: Caller) -> Job:
        """Queue a failed or cancelled job again; stages whose records are valid are not repeated.

        Raises:
            ConflictError: The job is in another state, or it was started by hand.
            QuotaExceededError: The owner has too many queued jobs.
            BaseDraftMissingError: The draft that it names has been removed.
        """
        job = self.get(job_id, caller)
        if job.origin == "ray":
            raise ConflictError(f"job {job_id} was started on the cluster by hand; start it there again", param="id")
        self._require_draft(job)
        budget = job.attempt + self._settings.max_attempts - job.max_attempts
        job = self._store.jobs.transition(
            job_id,
            Status.QUEUED,
            event="job_retried",
            message="queued again by request",
            only_from={Status.FAILED, Status.CANCELLED},
            extra_attempts=max(budget, 0),
            max_queued_per_owner=self._settings.max_queued_per_owner,
        )
        job = self._still_there(job)
        self._wake()
        return job

    def remove(self, job_id: str, caller: Caller) -> int:
        """Delete a job that has ended, its run directory with it; returns the bytes freed, 0 on storage by URL.

        Raises:
            NotFoundError: No such job of the caller's.
            ConflictError: It has not ended, or what it published or deployed needs it.
        """
        job = self.get(job_id, caller)
        published = self._published(job)
        if published is not None:
            raise ConflictError(
                f"job {job.id} published {published}, whose owner and history are the job's; remove {published} first, "
                "or free what is large of its run directory with `eda gc`",
                param="id",
            )
        run = self._run_dir(job)
        self._store.jobs.remove(job.id, owner=caller.sees, forget=lambda: run.remove(JobFile.FILE))
        freed = run.store.delete()
        by = caller.key_id or "the local user"
        logger.info("job %s of %s was removed by %s: %s freed", job.id, job.owner, by, size(freed))
        return freed

    def _published(self, job: Job) -> str | None:
        """A pack or a draft that is there and that a job published, name@version."""
        home = self._settings.home
        for reference in filter(None, (job.result_pack, job.result)):
            made = Reference.parse(reference)
            if made is None or made.number is None:
                continue
            name, number = made.name, made.number
            made_pack = number in registry.pack_versions(name, home) and registry.pack_job_id(name, number, home)
            made_draft = registry.has_draft(name, number, home) and registry.draft_job_id(name, number, home)
            if job.id in {made_pack, made_draft}:
                return str(made)
        return None

    def events(self, job_id: str, caller: Caller, *, after: int, limit: int) -> tuple[list[Event], bool]:
        """Events of a job, oldest first, and whether there are more."""
        self.get(job_id, caller)
        return self._store.events.of(job_id, owner=caller.sees, after=after, limit=limit)

    def newest_events(self, job_id: str, caller: Caller, *, before: int, limit: int) -> tuple[list[Event], bool]:
        """Events of a job before an id (0: all), newest first, and whether there are more."""
        self.get(job_id, caller)
        return self._store.events.newest(job_id, owner=caller.sees, before=before, limit=limit)

    def logged(self, job_id: str, caller: Caller) -> tuple[Stage, ...]:
        """Stages of a job that have a log."""
        return tuple(self._run_dir(self.get(job_id, caller)).logs())

    def counts(self, caller: Caller) -> dict[str, int]:
        """Number of jobs per status."""
        return self._store.jobs.counts(owner=caller.sees, kind=self._kind)

    def logs(
        self, job_id: str, caller: Caller, stage: Stage | None, tail: int, after: int | None
    ) -> tuple[Stage | None, list[str], int]:
        """Lines of a stage's log (without a stage: of the latest that logged) and the offset behind them."""
        run = self._run_dir(self.get(job_id, caller))
        logs = run.logs()
        wanted = stage if stage is not None else next(reversed(logs), None)
        if wanted is None or wanted not in logs:
            return stage, [], 0
        return wanted, *_lines(logs[wanted], tail, after)

    def _run_dir(self, job: Job) -> RunDir:
        return RunDir.of_job(job.id, self._settings.home)


def _lines(path: Path, num_lines: int, after: int | None) -> tuple[list[str], int]:
    """The last whole lines, or those behind an offset, at most a mebibyte of them; and the offset behind the last."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        start = max(0, size - _MAX_LOG_BYTES) if after is None else min(after, size)
        stream.seek(start)
        data = stream.read(_MAX_LOG_BYTES)
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.decode("utf-8", errors="replace").splitlines()
    if after is None:
        return list(deque(lines, maxlen=num_lines)), start + len(whole)
    return lines, start + len(whole)
