"""The adaptations resource: create, estimate, and what they have written down."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from api.auth import Caller
from api.drafts.drafts import Drafts
from api.files.files import Files
from api.jobs.job_records import JobRecords, read_records, running_curve
from api.jobs.jobs import Jobs, Queued
from api.jobs.outcomes import JobOutcomes
from api.jobs.schemas import AdaptationBody, AdaptationRequest, EstimateBody
from api.jobs.schemas_outcome import RemainingBody
from api.jobs.submission import inputs
from api.jobs.submission.adapt_config import explicit_numbers, to_config
from api.jobs.submission.feasibility import Feasibility, Verdict
from api.jobs.submission.targets import Targets, check_tasks
from api.settings import Settings
from eda_service.config.job import EngineKind
from eda_service.config.tasks import JobKind
from eda_service.engines.vllm_environment import missing
from eda_service.errors import NotFoundError
from eda_service.jobstore import Job, JobStore
from eda_service.planning.outcome import Outcome
from eda_service.raycluster.nodes import RayCluster
from eda_service.records import CurvePoint, EvalReport, Stage
from eda_service.storage.published.packs import measured_on
from eda_service.storage.samples.samples import SamplePage, read_samples


class Adaptations(Jobs):
    """Adaptations, as callers see them: another owner's job does not exist, nor do jobs of other kinds.

    Args:
        store: The queue.
        settings: Where things are.
        wake: Called after a change, so that the dispatcher does not wait for its next tick.
        targets: Looks at submit for what a job names.
        drafts: The base drafts that there are.
        files: The prompt files that were uploaded.
        cluster: What there is to run on; None: not known.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        wake: Callable[[], None],
        targets: Targets,
        drafts: Drafts,
        files: Files,
        *,
        cluster: RayCluster | None = None,
    ) -> None:
        super().__init__(store, settings, wake, kind=JobKind.ADAPT)
        self._drafts, self._files = drafts, files
        self._outcomes = JobOutcomes(settings.home)
        self._feasibility = Feasibility(settings.home, targets, cluster, cluster_grows=settings.cluster_grows)

    def create(self, request: AdaptationRequest, caller: Caller, idempotency_key: str | None) -> tuple[Job, bool]:
        """Check a request and queue it; returns the job and whether it is new.

        Raises:
            InputError: The request cannot work; `param` says why.
            ConflictError: The idempotency key belongs to another request.
            QuotaExceededError: The caller has too many queued jobs.
        """

        def check() -> Queued:
            checked, verdict = self._checked(request, caller, keep=True)
            if verdict.shortfalls and not request.force:
                raise verdict.shortfalls[0]
            return Queued(checked.config, verdict.need, verdict.overruled)

        return self._queue(request, caller, idempotency_key, check)

    def estimate(self, request: AdaptationRequest, caller: Caller) -> EstimateBody:
        """What the job would need; the same checks as `create`, nothing stored.

        What the disk or the cluster lacks is a part of the answer here; `create` refuses it unless it is forced.
        """
        if request.webhook is not None:
            self._checked_url(request.webhook.url)
        checked, verdict = self._checked(request, caller, keep=False)
        estimate = self._feasibility.estimate(checked.config, verdict)
        return estimate.model_copy(update={"warnings": [*checked.notes, *estimate.warnings]})

    def _checked(self, request: AdaptationRequest, caller: Caller, *, keep: bool) -> tuple[inputs.Checked, Verdict]:
        """The config with its names resolved, and what speaks against it that could be overruled."""
        config = to_config(request)
        if config.target.engine is EngineKind.VLLM and not self._settings.has_vllm:
            raise missing("where this service runs", param="target.engine")
        check_tasks(config)
        draft = self._drafts.resolve(config.base_draft, caller.sees)
        checked = inputs.check(
            config,
            draft=str(draft),
            home=self._settings.home,
            roots=self._roots,
            uploads=partial(self._files.open, caller=caller),
            explicit=explicit_numbers(request),
            keep=keep,
        )
        verdict = self._feasibility.judge(checked.config)
        if verdict.unknown and not request.force:
            raise verdict.unknown[0]
        return checked, verdict

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

    def body(self, job: Job, *, alone: bool = True) -> AdaptationBody:
        """The wire form of a job, with how long it still takes and what came of it.

        Args:
            job: It.
            alone: Whether it is looked at by itself; in a list its directory is not measured.
        """
        return AdaptationBody.of(job, outcome=self.outcome(job, alone=alone), remaining=self.remaining(job))

    def outcome(self, job: Job, *, alone: bool = True) -> Outcome | None:
        """Before and after, and the cost, of a job that has succeeded."""
        return self._outcomes.of(job, with_disk=alone)

    def prompts_in_words(self, job: Job, caller: Caller) -> str:
        """Where the prompts of a job came from."""
        return self._files.in_words(job.adapt_config().dataset.source, caller)

    def remaining(self, job: Job) -> RemainingBody | None:
        """How long a running job still takes."""
        return RemainingBody.of(self._outcomes.remaining(job))

    def records(self, job_id: str, caller: Caller) -> JobRecords:
        """What the job's stages have written down so far."""
        return read_records(self._run_dir(self.get(job_id, caller)))

    def curve(self, job_id: str, caller: Caller) -> tuple[CurvePoint, ...]:
        """The points that a job's training has written so far."""
        return running_curve(self._run_dir(self.get(job_id, caller)))

    def samples(self, job_id: str, caller: Caller, *, kept: bool | None, after: int, limit: int) -> SamplePage:
        """A page of a job's samples, the most valuable first.

        Raises:
            NotFoundError: The job has not come that far.
        """
        job = self.get(job_id, caller)
        page = read_samples(self._run_dir(job), kept=kept, after=after, limit=limit)
        if page is None:
            raise NotFoundError(
                f"job {job_id} is {job.status.value} and has no samples; wait for the end of its stage `select`"
            )
        return page

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
