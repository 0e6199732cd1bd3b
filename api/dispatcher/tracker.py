"""Follows one live job: turns its files and Ray's answers into changes of its row.

A pass reads everything afresh and takes the one next step, so it does not matter what was missed while the API was
down. The order of checks is fixed: an attempt that was not submitted is submitted; else its result file ends the job;
else Ray's answer about this attempt decides; and an attempt of an ended Ray session is lost once it has been silent for
the grace period. Results carry their attempt's number, so a late result of an earlier attempt ends nothing. Every
change carries the lease's token, so a dispatcher that lost the job changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from api.deployments.promotion import promote
from api.dispatcher.rivalry import Rivalry
from api.metrics.instruments import Instruments
from api.packs.packs import PackService
from api.settings import Settings
from eda_service.config.tasks import JobKind
from eda_service.errors import (
    ArtifactCorruptError,
    DeadlineExceededError,
    EdaError,
    StaleDeploymentError,
    StorageError,
    WorkerLostError,
)
from eda_service.jobstore import Job, JobStore, Status
from eda_service.raycluster.jobs_api import RAY_ENDED, RayJob, RayJobs, RayStatus
from eda_service.storage.inputs.allowed import roots_env
from eda_service.storage.objects import storage_env
from eda_service.storage.published.registry import forget_staging
from eda_service.storage.runs.job_row_fields import JobRowFields
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Failed, Failure, Succeeded

logger = logging.getLogger(__name__)

_LOG_TAIL_CHARACTERS = 600
_MAX_CHANGES_IN_BETWEEN = 5
_DID = {JobKind.IMPORT_DRAFT: "registered", JobKind.MEASURE: "measured, as", JobKind.EXPORT: "exported, as"}


class AttemptTracker:
    """Moves live jobs forward.

    Args:
        store: Jobs and the other rows of the database.
        settings: Intervals and commands.
        ray: Job API of the cluster.
        instruments: Counters of this process.
        clock: Clock in seconds since the epoch.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        ray: RayJobs,
        instruments: Instruments,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._settings, self._ray, self._clock = store, settings, ray, clock
        self._instruments = instruments
        self._packs = PackService(store, settings.home)
        self._rivalry = Rivalry(store.deployments, self._packs, clock=clock)

    def advance(self, job: Job, session: str | None) -> None:
        """Check a running or cancelling job once and take its next step.

        Args:
            job: The job as leased by this dispatcher; a change without its current lease token is refused.
            session: Ray's session now; None while Ray does not answer.

        Raises:
            ClusterUnreachableError: Ray does not answer; the row is unchanged and the next pass tries again.
            LeaseLostError: Another dispatcher has the job now; nothing was changed.
        """
        run = RunDir.of_job(job.id, self._settings.home)
        if job.submitted_at is None:
            self._submit(job, run, session)
            return
        result = run.read_result(attempt=job.attempt)
        self.read_files(job, run)  # after the result: what the driver told before it is not missed
        if result is not None:
            self._rivalry.forget(job.id)
            self._finish(job, result)
            return
        if job.kind is JobKind.ADAPT:
            self._rivalry.tell(job, run)
        if job.origin == "ray":
            self._advance_foreign(job, run)
        else:
            self._advance_own(job, run, session)

    def fail(self, job: Job, error: EdaError) -> None:
        """End an attempt whose files or config cannot be used; after a retryable error the job is tried again."""
        self._failed(job, Failure.of(error))

    def give_up(self, job: Job, error: EdaError) -> None:
        """Stop an attempt and end it, because the service cannot use its output.

        Raises:
            ClusterUnreachableError: Ray does not answer, so nothing was ended.
        """
        self._ray.stop(job.ray_submission_id)
        self._failed(job, Failure.of(error))

    def read_files(self, job: Job, run: RunDir) -> None:
        """Import new events and the last heartbeat."""
        lines = run.read_events(job.events_read)
        if lines:
            fresh = self._store.events.bring_in(job.id, lines, start=job.events_read, token=job.lease_token)
            for line in fresh:
                if line["type"] == "stage_finished" and "took_s" in line:
                    self._instruments.stage_s.labels(line["stage"]).observe(line["took_s"])
        progress = run.read_progress()
        if progress is not None and progress.as_row() != job.progress and progress.attempt >= job.attempt:
            self._store.jobs.record_progress(job.id, progress.as_row(), token=job.lease_token)

    def _submit(self, job: Job, run: RunDir, session: str | None) -> None:
        found = self._ray.get(job.ray_submission_id)
        if found is None and job.status is Status.CANCELLING:
            self._cancelled(job)
            return
        if found is None:
            shown = job.model_dump(include=set(JobRowFields.model_fields))
            row_fields = JobRowFields.model_validate({**shown, **self._store.adoption.kept_row_fields(job.id)})
            run.create(job.task(), origin="api", created_at=job.created_at, row_fields=row_fields)
            if job.kind is JobKind.ADAPT:
                self._rivalry.tell(job, run)
            env = {"EDA_HOME": str(self._settings.home), "EDA_ATTEMPT": str(job.attempt), **storage_env()}
            env |= roots_env(self._settings.local_roots)
            command = self._settings.command_of(job.kind)
            self._ray.submit(job.ray_submission_id, f"{command} --job-id {job.id}", env_vars=env)
            logger.info("submitted %s", job.ray_submission_id)
        self._store.jobs.mark_submitted(job.id, token=job.lease_token, ray_session=session)

    def _advance_own(self, job: Job, run: RunDir, session: str | None) -> None:
        silent_s = self._silent_s(job, run)
        found = self._ray.get(job.ray_submission_id)
        if found is None or _is_restarted(job, session):
            # A head with a persistent store goes on saying RUNNING of a job that died with the one before it.
            if silent_s >= self._settings.grace_s or job.status is Status.CANCELLING:
                self._lost(job, "Ray was restarted, and the attempt ended with it")
        elif found.status in RAY_ENDED:
            self._ended_without_result(job, run, found)
        elif job.status is Status.CANCELLING:
            self._ray.stop(job.ray_submission_id)
        elif found.status is RayStatus.PENDING:
            return  # its process waits for room in Ray: there is nobody yet who could give a sign of life
        elif silent_s >= self._settings.stall_timeout_s:
            self._ray.stop(job.ray_submission_id)
            self._lost(job, f"no heartbeat for {self._settings.stall_timeout_s:.0f} s")
        elif (late := self._late(job, run)) is not None:
            self._ray.stop(job.ray_submission_id)
            self._failed(job, Failure.of(late))

    def _late(self, job: Job, run: RunDir) -> DeadlineExceededError | None:
        """Return the error of a stage that runs past its deadline: the job's own deadline, or that of every stage."""
        progress = run.read_progress()
        if progress is None or progress.attempt != job.attempt or progress.stage_started_at is None:
            return None
        stage = progress.stage
        limit_s = job.stage_deadlines.get(stage, self._settings.stage_deadline_s)
        if self._clock() - progress.stage_started_at <= limit_s:
            return None
        return DeadlineExceededError(
            f"stage {stage} ran longer than its deadline of {limit_s:.0f} s; raise stage_deadlines.{stage}",
            param=f"stage_deadlines.{stage}",
        )

    def _ended_without_result(self, job: Job, run: RunDir, found: RayJob) -> None:
        result = run.read_result(attempt=job.attempt)  # it may have come after the first look
        if result is not None:
            self.read_files(job, run)  # lines that came in at the first look are left out by the store
            self._finish(job, result)
            return
        tail = self._ray.logs(job.ray_submission_id).strip()[-_LOG_TAIL_CHARACTERS:]
        self._lost(
            job, f"the attempt ended as {found.status.value} without a result; its last output: {tail or '(none)'}"
        )

    def _advance_foreign(self, job: Job, run: RunDir) -> None:
        if job.status is Status.CANCELLING:
            progress = run.read_progress()
            pid = None if progress is None else progress.pid
            found = None if pid is None else self._ray.find_by_driver_pid(pid)
            if found is not None and found.submission_id is not None and found.status not in RAY_ENDED:
                self._ray.stop(found.submission_id)
                return
            if found is not None:
                self._cancelled(job)
                return
        if self._silent_s(job, run) >= self._settings.heartbeat_timeout_s:
            self._lost(job, f"no heartbeat for {self._settings.heartbeat_timeout_s:.0f} s")

    def _finish(self, job: Job, result: Succeeded | Failed) -> None:
        if isinstance(result, Failed):
            self._failed(job, result.error)
            return
        pack = result.pack
        if job.kind is not JobKind.ADAPT or pack is None:
            self._finish_task(job, result.result)
            return
        name = job.adapt_config().public_name
        for _ in range(_MAX_CHANGES_IN_BETWEEN):
            promotion = promote(self._store.deployments, self._packs, job, pack)
            what = f"serving as {name}, {promotion.told}" if promotion.kept is None else f"{name} is as it was"
            # Whoever changes the deployment in between is not overwritten: what to do is decided anew.
            with contextlib.suppress(StaleDeploymentError):
                self._store.jobs.transition(
                    job.id,
                    Status.SUCCEEDED,
                    event="job_succeeded",
                    message=f"published {pack}, {what}",
                    result_pack=pack,
                    deployment=promotion.deployment,
                    deployment_kept=promotion.kept,
                    token=job.lease_token,
                )
                return
        logger.warning("%s: the deployment %s changes all the time; trying again at the next look", job.id, name)

    def _finish_task(self, job: Job, result: str | None) -> None:
        """End a job that publishes no pack.

        Raises:
            ArtifactCorruptError: The result belongs to another kind of job.
        """
        if job.kind is JobKind.ADAPT or result is None:
            raise ArtifactCorruptError(f"the result of {job.id} is not one of a job of kind {job.kind.value}")
        what = f"{_DID[job.kind]} {result}"
        self._store.jobs.transition(
            job.id, Status.SUCCEEDED, event="job_succeeded", message=what, result=result, token=job.lease_token
        )

    def _lost(self, job: Job, why: str) -> None:
        self._failed(job, Failure.of(WorkerLostError(why)))

    def _failed(self, job: Job, error: Failure) -> None:
        if job.status is Status.CANCELLING:
            self._cancelled(job)
            return
        message = f"{error.code}: {error.message}"
        if not error.retryable or job.attempt >= job.max_attempts:
            self._store.jobs.transition(
                job.id,
                Status.FAILED,
                event="job_failed",
                message=message,
                level="error",
                error=error.model_dump(),
                token=job.lease_token,
            )
            return
        wait_s = self._settings.backoff_s * 2 ** (job.attempt - 1)
        self._store.jobs.transition(
            job.id,
            Status.QUEUED,
            event="attempt_lost",
            message=f"attempt {job.attempt} of {job.max_attempts}: {message}; next in {wait_s:.0f} s",
            level="warning",
            not_before=int(self._clock() + wait_s),
            token=job.lease_token,
        )

    def _forget_staging(self, job: Job) -> None:
        """Delete what the job prepared for publishing, after its processes have ended or were killed.

        Not called for a job that failed at a deadline: it is stopped, and the tracker does not wait until its processes
        have ended.
        """
        with contextlib.suppress(OSError, StorageError, ValueError):  # no harm but to the disk
            forget_staging(job.task(), job.id, self._settings.home)

    def _cancelled(self, job: Job) -> None:
        self._forget_staging(job)
        with contextlib.suppress(OSError, StorageError):  # it helps where the row is lost; the row is what counts
            RunDir.of_job(job.id, self._settings.home).note_cancelled(job.attempt)
        self._store.jobs.transition(
            job.id,
            Status.CANCELLED,
            event="job_cancelled",
            message="its processes are gone",
            token=job.lease_token,
        )

    def _silent_s(self, job: Job, run: RunDir) -> float:
        progress = run.read_progress()
        heartbeat = 0 if progress is None else progress.updated_at
        return self._clock() - max(heartbeat, job.submitted_at or job.created_at)


def _is_restarted(job: Job, session: str | None) -> bool:
    return session is not None and job.ray_session is not None and session != job.ray_session
