"""The jobs resource: create, look, cancel, retry. It changes rows; the dispatcher makes the cluster follow."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from api.auth import Caller
from api.schemas import AdaptationRequest, ChangeRequest, EstimateBody
from api.services import inputs
from api.services.feasibility import Feasibility, Verdict
from api.services.job_records import JobRecords, read_records, running_curve
from api.services.submission import explicit_numbers, to_config
from api.services.targets import Targets, check_tasks
from api.services.webhook_urls import check_url
from api.settings import Settings
from eda_service.config.job import EngineKind
from eda_service.errors import ConflictError, NotFoundError
from eda_service.export.vllm_environment import missing
from eda_service.jobstore import Event, Job, JobStore, Status
from eda_service.raycluster.nodes import RayCluster
from eda_service.records import CurvePoint, EvalReport, Stage
from eda_service.storage.files import sha256_text
from eda_service.storage.packs import measured_on
from eda_service.storage.run import RunDir

_MAX_LOG_BYTES = 1 << 20


class Adaptations:
    """Jobs, as callers see them: another owner's job does not exist.

    Args:
        store: The queue.
        settings: Where things are.
        wake: Called after a change, so that the dispatcher does not wait for its next tick.
        targets: Looks at submit for what a job names.
        cluster: What there is to run on; None: not known.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        wake: Callable[[], None],
        targets: Targets,
        *,
        cluster: RayCluster | None = None,
    ) -> None:
        self._store, self._settings, self._wake = store, settings, wake
        self._roots = settings.roots
        self._feasibility = Feasibility(settings.home, targets, cluster, cluster_grows=settings.cluster_grows)

    def create(self, request: AdaptationRequest, caller: Caller, idempotency_key: str | None) -> tuple[Job, bool]:
        """Check a request and queue it; returns the job and whether it is new.

        A repeated key is answered with its job, whatever has become of disk, cluster and hub since.

        Raises:
            InputError: The request cannot work; `param` says why.
            ConflictError: The idempotency key belongs to another request.
            QuotaExceededError: The caller has too many queued jobs.
        """
        digest = sha256_text(json.dumps(request.model_dump(mode="json"), sort_keys=True))
        if idempotency_key is not None:
            replay = self._store.replayed(caller.owner, idempotency_key, digest)
            if replay is not None:
                return replay, False
        webhook = request.webhook
        told = None if webhook is None else {"url": self._checked_url(webhook.url), "secret": webhook.secret}
        checked, verdict = self._checked(request, keep=True)
        if verdict.shortfalls and not request.force:
            raise verdict.shortfalls[0]
        job, made = self._store.create(
            checked.config,
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
            need=verdict.need,
            warnings=verdict.overruled,
        )
        self._wake()
        return job, made

    def estimate(self, request: AdaptationRequest) -> EstimateBody:
        """What the job would need; the same checks as `create`, nothing stored.

        What the disk or the cluster lacks is a part of the answer here; `create` refuses it unless it is forced.
        """
        if request.webhook is not None:
            self._checked_url(request.webhook.url)
        checked, verdict = self._checked(request, keep=False)
        estimate = self._feasibility.estimate(checked.config, verdict)
        return estimate.model_copy(update={"warnings": [*checked.notes, *estimate.warnings]})

    def _checked_url(self, url: str) -> str:
        return check_url(url, private=self._settings.webhook_private_addresses)

    def _checked(self, request: AdaptationRequest, *, keep: bool) -> tuple[inputs.Checked, Verdict]:
        """The config with its names resolved, and what speaks against it that could be overruled."""
        config = to_config(request)
        if config.selfgen.engine is EngineKind.VLLM and not self._settings.has_vllm:
            raise missing("where this service runs", param="selfgen.engine")
        check_tasks(config)
        checked = inputs.check(
            config,
            home=self._settings.home,
            roots=self._roots,
            explicit=explicit_numbers(request),
            keep=keep,
        )
        verdict = self._feasibility.judge(checked.config)
        if verdict.unknown and not request.force:
            raise verdict.unknown[0]
        return checked, verdict

    def get(self, job_id: str, caller: Caller) -> Job:
        """One job."""
        return self._store.get(job_id, owner=caller.sees)

    def page(
        self, caller: Caller, *, limit: int, after: str | None, status: Status | None, labels: Mapping[str, str]
    ) -> tuple[list[Job], bool]:
        """A page of jobs, newest first, and whether there are more."""
        return self._store.page(limit=limit, after=after, status=status, labels=labels, owner=caller.sees)

    def change(self, job_id: str, request: ChangeRequest, caller: Caller) -> Job:
        """Change a queued job's priority."""
        return self._store.set_priority(job_id, request.priority, owner=caller.sees)

    def cancel(self, job_id: str, caller: Caller) -> Job:
        """Stop a job: at once when it is queued, else once its processes are gone. Cancelling twice is no error."""
        job = self.get(job_id, caller)
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

    def retry(self, job_id: str, caller: Caller) -> Job:
        """Queue a failed or cancelled job again; stages whose records are valid are not repeated.

        Raises:
            ConflictError: The job is in another state, or it was started by hand.
            QuotaExceededError: The owner has too many queued jobs.
        """
        job = self.get(job_id, caller)
        if job.origin == "ray":
            raise ConflictError(f"job {job_id} was started on the cluster by hand; start it there again", param="id")
        budget = job.attempt + self._settings.max_attempts - job.max_attempts
        job = self._store.transition(
            job_id,
            Status.QUEUED,
            event="job_retried",
            message="queued again by request",
            only_from={Status.FAILED, Status.CANCELLED},
            extra_attempts=max(budget, 0),
            max_queued_per_owner=self._settings.max_queued_per_owner,
        )
        self._wake()
        return job

    def events(self, job_id: str, caller: Caller, *, after: int, limit: int) -> tuple[list[Event], bool]:
        """Events of a job, oldest first, and whether there are more."""
        return self._store.events(job_id, owner=caller.sees, after=after, limit=limit)

    def newest_events(self, job_id: str, caller: Caller, *, before: int, limit: int) -> tuple[list[Event], bool]:
        """Events of a job before an id (0: all), newest first, and whether there are more."""
        return self._store.newest_events(job_id, owner=caller.sees, before=before, limit=limit)

    def report(self, job_id: str, caller: Caller) -> EvalReport:
        """The evaluation of a job.

        Raises:
            NotFoundError: The job has not come that far.
        """
        job = self.get(job_id, caller)
        report = self._run_dir(job).read_record(EvalReport, Stage.EVALUATE, verify=False)
        if report is None:
            raise NotFoundError(f"job {job_id} is {job.status.value} and has no report; wait for its stage `evaluate`")
        return report.model_copy(update={"measured_on": report.measured_on or measured_on(job.adapt_config())})

    def records(self, job_id: str, caller: Caller) -> JobRecords:
        """What the job's stages have written down so far."""
        return read_records(self._run_dir(self.get(job_id, caller)))

    def curve(self, job_id: str, caller: Caller) -> tuple[CurvePoint, ...]:
        """The points that a job's training has written so far."""
        return running_curve(self._run_dir(self.get(job_id, caller)))

    def logged(self, job_id: str, caller: Caller) -> tuple[Stage, ...]:
        """Stages of a job that have a log."""
        return tuple(self._run_dir(self.get(job_id, caller)).logs())

    def counts(self, caller: Caller) -> dict[str, int]:
        """Number of jobs per status."""
        return self._store.counts(owner=caller.sees)

    def plot(self, job_id: str, caller: Caller, name: str) -> Path:
        """A plot's file.

        Raises:
            NotFoundError: The job has not come that far.
        """
        job = self.get(job_id, caller)
        run = self._run_dir(job)
        report = run.read_record(EvalReport, Stage.EVALUATE, verify=False)
        path = run.root / Stage.EVALUATE / f"{name}.png"
        if report is not None:
            run.store.fetch(Stage.EVALUATE, [entry for entry in report.files if entry.path == path.name])
        if not path.is_file():
            raise NotFoundError(f"job {job_id} is {job.status.value} and has no plots; wait for its stage `evaluate`")
        return path

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
