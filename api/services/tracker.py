"""One live job: its files and Ray's word become moves of its row.

A pass looks at everything afresh and does the one thing that is next, so it does not matter what was missed while the
API was down. The order of looks is the contract: an attempt that was not submitted is submitted; else a result file
ends the job; else Ray's word about this attempt decides; and an attempt that Ray forgot (its head was restarted) is
lost once it has been silent for the grace period.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from api.settings import Settings
from eda_service.artifacts.rundir import RunDir
from eda_service.distributed.ray_jobs import RAY_ENDED, RayJob, RayJobs
from eda_service.errors import EdaError
from eda_service.jobstore import Deployment, Job, JobStore, Status

logger = logging.getLogger(__name__)

_LOG_TAIL_CHARACTERS = 600


class Tracker:
    """Moves live jobs forward.

    Args:
        store: The queue.
        settings: Intervals and commands.
        ray: The cluster's job API.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, store: JobStore, settings: Settings, ray: RayJobs, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._settings, self._ray, self._clock = store, settings, ray, clock

    def advance(self, job: Job) -> None:
        """Take one look at a running or cancelling job.

        Raises:
            ClusterUnreachableError: Ray does not answer; the row is as it was and the next pass tries again.
        """
        run = RunDir.of_job(job.id, self._settings.home)
        if job.submitted_at is None:
            self._submit(job, run)
            return
        self.read_files(job, run)
        result = run.read_result()
        if result is not None:
            self._finish(job, result)
        elif job.origin == "ray":
            self._advance_foreign(job, run)
        else:
            self._advance_own(job, run)

    def fail(self, job: Job, error: EdaError) -> None:
        """End an attempt whose files or config cannot be used; a retryable error is tried again."""
        body = {"code": error.code, "message": error.message, "param": error.param, "retryable": error.retryable}
        self._failed(job, body)

    def read_files(self, job: Job, run: RunDir) -> None:
        """Import new events and the last heartbeat."""
        lines = run.read_events(job.events_read)
        if lines:
            self._store.import_events(job.id, lines, start=job.events_read)
        progress = run.read_progress()
        if progress is not None and progress != job.progress:
            self._store.record_progress(job.id, progress)

    def _submit(self, job: Job, run: RunDir) -> None:
        if job.status is Status.CANCELLING and self._ray.get(job.ray_submission_id) is None:
            self._cancelled(job)
            return
        if self._ray.get(job.ray_submission_id) is None:
            # Only now: a result of this very attempt must survive an API that died between submitting and noting it.
            run.clear_result()
            run.create(job.adapt_config(), origin="api")
            env = {"EDA_HOME": str(self._settings.home), "EDA_ATTEMPT": str(job.attempt)}
            self._ray.submit(job.ray_submission_id, f"{self._settings.job_command} --job-id {job.id}", env_vars=env)
            logger.info("submitted %s", job.ray_submission_id)
        self._store.mark_submitted(job.id)

    def _advance_own(self, job: Job, run: RunDir) -> None:
        found = self._ray.get(job.ray_submission_id)
        if found is None:
            if self._silent_s(job, run) >= self._settings.grace_s or job.status is Status.CANCELLING:
                self._lost(job, "Ray has no such submission any more; its head was restarted")
            return
        if found.status in RAY_ENDED:
            self._ended_without_result(job, run, found)
        elif job.status is Status.CANCELLING:
            self._ray.stop(job.ray_submission_id)
        elif self._silent_s(job, run) >= self._settings.stall_timeout_s:
            self._ray.stop(job.ray_submission_id)
            self._lost(job, f"no heartbeat for {self._settings.stall_timeout_s:.0f} s")

    def _ended_without_result(self, job: Job, run: RunDir, found: RayJob) -> None:
        result = run.read_result()  # it may have been written between the first look and Ray's answer
        if result is not None:
            self._finish(job, result)
            return
        tail = self._ray.logs(job.ray_submission_id).strip()[-_LOG_TAIL_CHARACTERS:]
        self._lost(
            job, f"the attempt ended as {found.status.value} without a result; its last output: {tail or '(none)'}"
        )

    def _advance_foreign(self, job: Job, run: RunDir) -> None:
        if job.status is Status.CANCELLING:
            pid = (run.read_progress() or {}).get("pid")
            found = None if pid is None else self._ray.find_by_driver_pid(int(pid))
            if found is not None and found.submission_id is not None and found.status not in RAY_ENDED:
                self._ray.stop(found.submission_id)
                return
            if found is not None:
                self._cancelled(job)
                return
        if self._silent_s(job, run) >= self._settings.heartbeat_timeout_s:
            self._lost(job, f"no heartbeat for {self._settings.heartbeat_timeout_s:.0f} s")

    def _finish(self, job: Job, result: dict[str, Any]) -> None:
        if result.get("status") == "succeeded":
            pack = str(result["pack"])
            config = job.adapt_config()
            name = config.public_name
            deployment = Deployment(
                name=name,
                target=config.target.model_dump(mode="json"),
                base_draft=config.base_draft,
                pack=pack,
                job_id=job.id,
                updated_at=int(self._clock()),
            )
            self._store.transition(
                job.id,
                Status.SUCCEEDED,
                event="job_succeeded",
                message=f"published {pack}, serving as {name}",
                result_pack=pack,
                deployment=deployment,
            )
        else:
            self._failed(job, dict(result["error"]))

    def _lost(self, job: Job, why: str) -> None:
        self._failed(job, {"code": "worker_lost", "message": why, "param": None, "retryable": True})

    def _failed(self, job: Job, error: dict[str, Any]) -> None:
        if job.status is Status.CANCELLING:
            self._cancelled(job)
            return
        message = f"{error['code']}: {error['message']}"
        if not error.get("retryable") or job.attempt >= job.max_attempts:
            self._store.transition(
                job.id, Status.FAILED, event="job_failed", message=message, level="error", error=error
            )
            return
        wait_s = self._settings.backoff_s * 2 ** (job.attempt - 1)
        self._store.transition(
            job.id,
            Status.QUEUED,
            event="attempt_lost",
            message=f"attempt {job.attempt} of {job.max_attempts}: {message}; next in {wait_s:.0f} s",
            level="warning",
            not_before=int(self._clock() + wait_s),
        )

    def _cancelled(self, job: Job) -> None:
        self._store.transition(job.id, Status.CANCELLED, event="job_cancelled", message="its processes are gone")

    def _silent_s(self, job: Job, run: RunDir) -> float:
        heartbeat = (run.read_progress() or {}).get("updated_at", 0)
        return self._clock() - max(int(heartbeat), job.submitted_at or job.created_at)
