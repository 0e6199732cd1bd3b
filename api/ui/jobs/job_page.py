"""Progress of a job on its page: a row of the queue, and the stages with their times and cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from api.jobs.job_records import JobRecords
from api.jobs.schemas import waits_for
from api.ui.jobs.timeline import NARROW, WIDE, Stretch, Timeline, attempts_of, drawn
from eda_service.formatting import duration, percent, size
from eda_service.jobstore import Event, Job, Status
from eda_service.records import STAGES, Record, Stage
from eda_service.storage.published.packs import PackVersion

NUM_EVENTS = 500
"""Number of a job's first events in which its attempts are looked for."""


@dataclass(frozen=True)
class JobLine:
    """A job in one line.

    Attributes:
        name: Name under which it is served.
        target: Model, and adapter if any.
        percent: Progress of the running stage in percent; None while nothing runs.
        waits_for: Reason why the job does not start, if it does not fit the cluster.
    """

    id: str
    name: str
    target: str
    status: str
    stage: str | None
    percent: float | None
    attempt: str
    priority: int
    created_at: int
    owner: str
    is_live: bool
    waits_for: str | None = None

    @property
    def can_cancel(self) -> bool:
        """Whether the job can be stopped."""
        return self.status in {Status.QUEUED, Status.RUNNING}

    @property
    def can_retry(self) -> bool:
        """Whether the job can be queued again."""
        return self.status in {Status.FAILED, Status.CANCELLED}


def row_of(job: Job) -> JobLine:
    """Describe a stored job in one line."""
    config = job.adapt_config()
    progress = job.progress if job.status is Status.RUNNING else None
    return JobLine(
        id=job.id,
        name=config.public_name,
        target=config.target.model + (f" + {config.target.adapter}" if config.target.adapter else ""),
        status=job.status.value,
        stage=job.stage,
        percent=None if progress is None else float(progress.get("percent", 0.0)),
        attempt=f"{job.attempt}/{job.max_attempts}",
        priority=job.priority,
        created_at=job.created_at,
        owner=job.owner,
        is_live=not job.is_terminal,
        waits_for=waits_for(job),
    )


def deployment_in_words(events: Iterable[Event]) -> str | None:
    """Find in a finished job's events whether its pack was served, or why not; None while no event says either."""
    messages = {event.type: event.message for event in events}
    return messages.get("deployment_kept") or messages.get("job_succeeded")


@dataclass(frozen=True)
class StageView:
    """One stage of a job.

    Attributes:
        state: One of done, running, waiting, or stopped where a job ended in it.
        seconds: Seconds that the stage took, or has run so far.
        what: Result of the stage, in words.
        size_bytes: Size of the stage's files.
    """

    name: str
    state: str
    seconds: float | None
    what: str
    size_bytes: int | None


@dataclass(frozen=True)
class _Run:
    """The time in which a stage ran, as far as known."""

    began_at: float
    seconds: float


def stages_of(job: Job, records: JobRecords, pack: PackVersion | None) -> list[StageView]:
    """List every stage in order."""
    runs = _runs(job, records, pack)
    did, sizes = _did(records, pack), _sizes(records, pack)
    found = []
    for stage in STAGES:
        run = runs.get(stage)
        found.append(
            StageView(
                name=stage.value,
                state=_state(job, stage, run),
                seconds=None if run is None else run.seconds,
                what=did.get(stage, ""),
                size_bytes=sizes.get(stage),
            )
        )
    return found


def timelines_of(
    job: Job, records: JobRecords, pack: PackVersion | None, events: Sequence[Event]
) -> tuple[Timeline, ...]:
    """Draw attempts and stages on one time line, for wide and for narrow screens; empty where nothing has run.

    Args:
        job: Job in its present state.
        records: Records of its stages.
        pack: Pack that the job has published; None: it has published none.
        events: The first `NUM_EVENTS` events of the job, oldest first.
    """
    runs = _runs(job, records, pack)
    stretches = [
        Stretch(stage.value, state := _state(job, stage, run), state, run.began_at, run.began_at + run.seconds)
        for stage, run in runs.items()
    ]
    stretches += attempts_of(job, events, time.time())
    found = (drawn(stretches, float(job.created_at), width) for width in (WIDE, NARROW))
    return tuple(each for each in found if each is not None)


def _state(job: Job, stage: Stage, run: _Run | None) -> str:
    if job.status is Status.RUNNING and job.stage == stage.value:
        return "running"
    if job.status in {Status.FAILED, Status.CANCELLED, Status.CANCELLING} and job.stage == stage.value:
        return "stopped"
    return "waiting" if run is None else "done"


def _runs(job: Job, records: JobRecords, pack: PackVersion | None) -> dict[Stage, _Run]:
    made: list[Record | None] = [
        records.validated,
        records.generated,
        records.selected,
        records.trained,
        records.report,
        None if pack is None else pack.manifest,
    ]
    found = {each.stage: _Run(each.created_at - each.seconds, each.seconds) for each in made if each is not None}
    began_at = (job.progress or {}).get("stage_started_at")
    if job.status is Status.RUNNING and job.stage in set(STAGES) and began_at is not None:
        found[Stage(job.stage)] = _Run(float(began_at), max(0.0, time.time() - float(began_at)))
    return found


def _did(records: JobRecords, pack: PackVersion | None) -> dict[Stage, str]:
    """Describe the result of each stage, in words."""
    found: dict[Stage, str] = {}
    if (validated := records.validated) is not None:
        found[Stage.VALIDATE] = (
            f"{validated.num_prompts:,} prompts, {validated.num_eval_prompts:,} to evaluate; needs at most "
            f"{size(validated.disk_need_bytes)} of {size(validated.disk_free_bytes)} free"
        )
    if (generated := records.generated) is not None:
        skipped = f", {len(generated.skipped):,} skipped" if generated.skipped else ""
        found[Stage.GENERATE] = (
            f"{generated.num_samples:,} samples, {generated.num_answer_tokens:,} answer tokens{skipped}; reference "
            f"text {duration(generated.reference_seconds)}"
        )
    if (selected := records.selected) is not None:
        found[Stage.SELECT] = (
            f"kept {selected.num_selected:,} of {selected.num_candidates:,}; selection added "
            f"{percent(selected.selection_over_generation_time)} to generation"
        )
    if (trained := records.trained) is not None:
        found[Stage.TRAIN] = (
            f"{trained.num_steps:,} steps, best {trained.best_step:,}; {trained.num_trainable:,} of "
            f"{trained.num_parameters:,} parameters ({percent(trained.trainable_fraction)})"
        )
    if (report := records.report) is not None:
        lossless = report.lossless
        found[Stage.EVALUATE] = (
            f"T=0 output identical on {lossless.num_identical} of {lossless.num_prompts} prompts, "
            f"{lossless.num_near_ties} near ties, {lossless.num_different} different"
        )
    if pack is not None:
        found[Stage.PUBLISH] = pack.reference
    return found


def _sizes(records: JobRecords, pack: PackVersion | None) -> dict[Stage, int]:
    """Return bytes on disk by stage: all files in a stage's directory, and a pack's files. If the directory is not on
    this machine, the sizes in the records count, without files that were deleted later.
    """
    made: Mapping[Stage, Record | None] = {
        Stage.GENERATE: records.generated,
        Stage.SELECT: records.selected,
        Stage.TRAIN: records.trained,
        Stage.EVALUATE: records.report,
        Stage.PUBLISH: None if pack is None else pack.manifest,
    }
    named = {
        stage: sum(entry.size_bytes for entry in each.files if not entry.transient)
        for stage, each in made.items()
        if each is not None
    }
    return named | {stage: kept for stage, kept in records.disk_bytes.items() if stage in named}
