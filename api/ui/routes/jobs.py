"""Pages of the queue and of one job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from api.jobs.adaptations import Adaptations
from api.jobs.job_records import JobRecords
from api.jobs.sample_ids import sample_rank
from api.jobs.schemas import elapsed_s
from api.jobs.schemas_outcome import RemainingBody
from api.packs.packs import PackService
from api.routes.deps import AdaptationsDep, FeedDep, JobId, KeysDep, PacksDep
from api.ui import streams
from api.ui.access import FormDep, ReaderDep, Visitor, WriterDep
from api.ui.forms import change_of
from api.ui.jobs.job_page import NUM_EVENTS, deployment_in_words, row_of, stages_of, timelines_of
from api.ui.jobs.job_result import result_of
from api.ui.jobs.report import report_file
from api.ui.jobs.sample_page import MOST_CHARACTERS, view_of
from api.ui.rendering import go, part, render
from eda_service.jobstore import Event, Job, Status
from eda_service.records import STAGES, Stage

router = APIRouter(prefix="/jobs")

_PAGE = 50
_NUM_EVENTS = 50
_NUM_LINES = 500
_NUM_SAMPLES = 25

After = Annotated[str | None, Query(max_length=64)]
StatusQuery = Annotated[Status | None, Query()]


@router.get("")
def queue(
    request: Request,
    visitor: ReaderDep,
    adaptations: AdaptationsDep,
    after: After = None,
    status: StatusQuery = None,
) -> Response:
    """Show jobs, newest first."""
    jobs, has_more = adaptations.page(visitor.caller, limit=_PAGE, after=after, status=status, labels={})
    return render(
        request,
        "jobs.html",
        visitor,
        rows=[row_of(job) for job in jobs],
        counts=adaptations.counts(visitor.caller),
        has_more=has_more,
        after=after,
        chosen=None if status is None else status.value,
    )


@router.get("/stream")
async def queue_stream(
    visitor: ReaderDep,
    adaptations: AdaptationsDep,
    feed: FeedDep,
    keys: KeysDep,
    after: After = None,
    status: StatusQuery = None,
) -> Response:
    """Stream the rows of a page of the queue, as they change."""
    known: list[list[str]] = []

    def look() -> streams.Look:
        jobs, _ = adaptations.page(visitor.caller, limit=_PAGE, after=after, status=status, labels={})
        rows, counts = [row_of(job) for job in jobs], adaptations.counts(visitor.caller)
        parts = {"counts": part("_jobs.html", "tabs", counts, None if status is None else status.value)}
        ids = [row.id for row in rows]
        if known and known[-1] != ids:
            parts["rows"] = part("_jobs.html", "body", rows)
        known[:] = [ids]
        return streams.Look(parts | {f"row-{row.id}": part("_jobs.html", "row", row) for row in rows if row.is_live})

    return await streams.answer(feed, keys, visitor, look)


@router.get("/{job_id}")
def page(request: Request, job_id: JobId, visitor: ReaderDep, adaptations: AdaptationsDep, packs: PacksDep) -> Response:
    """Show one job."""
    job = adaptations.get(job_id, visitor.caller)
    records = adaptations.records(job_id, visitor.caller)
    events, _ = adaptations.newest_events(job_id, visitor.caller, before=0, limit=_NUM_EVENTS)
    return render(
        request,
        "job.html",
        visitor,
        job=job,
        row=row_of(job),
        place=adaptations.place(job, visitor.caller),
        config=job.adapt_config(),
        prompts=adaptations.prompts_in_words(job, visitor.caller),
        stages=stages_of(job, records, pack := packs.served(job.result_pack)),
        lines=timelines_of(job, records, pack, first_events(adaptations, job_id, visitor)),
        result=result_of(records, job.adapt_config()),
        told=deployment_in_words(events),
        times=_times(adaptations, job),
        came=adaptations.outcome(job),
        unreadable=records.unreadable,
        selected=records.selected is not None,
        logged=adaptations.logged(job_id, visitor.caller),
        events=events,
        last_event=events[0].id if events else 0,
    )


@router.get("/{job_id}/stream")
async def job_stream(
    job_id: JobId,
    visitor: ReaderDep,
    adaptations: AdaptationsDep,
    packs: PacksDep,
    feed: FeedDep,
    keys: KeysDep,
    after: Annotated[int, Query(ge=0, le=1 << 60)] = 0,
) -> Response:
    """Stream state, stages and events of a job, until it ends."""
    return await streams.answer(feed, keys, visitor, _JobLooks(job_id, visitor, adaptations, packs, after).look)


@router.post("/{job_id}/cancel")
def cancel(job_id: JobId, visitor: WriterDep, adaptations: AdaptationsDep, _form: FormDep) -> Response:
    """Stop a job."""
    adaptations.cancel(job_id, visitor.caller)
    return go(f"/jobs/{job_id}")


@router.post("/{job_id}/retry")
def retry(job_id: JobId, visitor: WriterDep, adaptations: AdaptationsDep, _form: FormDep) -> Response:
    """Queue a failed or cancelled job again."""
    adaptations.retry(job_id, visitor.caller)
    return go(f"/jobs/{job_id}")


@router.post("/{job_id}/priority")
def priority(job_id: JobId, visitor: WriterDep, adaptations: AdaptationsDep, form: FormDep) -> Response:
    """Change the priority of a queued job."""
    adaptations.get(job_id, visitor.caller)
    adaptations.change(job_id, change_of(form.get("priority", "")), visitor.caller)
    return go(f"/jobs/{job_id}")


@router.get("/{job_id}/report.html")
def report(job_id: JobId, visitor: ReaderDep, adaptations: AdaptationsDep, packs: PacksDep) -> Response:
    """Send the result as one file, as a download."""
    return report_file(job_id, visitor.caller, adaptations, packs)


@router.get("/{job_id}/samples")
def samples(
    request: Request,
    job_id: JobId,
    visitor: ReaderDep,
    adaptations: AdaptationsDep,
    kept: Annotated[bool | None, Query()] = None,
    after: Annotated[str | None, Query(max_length=24)] = None,
) -> Response:
    """Show the samples that selection kept and dropped, the most valuable first."""
    job = adaptations.get(job_id, visitor.caller)
    rank = sample_rank(after)
    page = adaptations.samples(job_id, visitor.caller, kept=kept, after=rank, limit=_NUM_SAMPLES)
    return render(
        request,
        "samples.html",
        visitor,
        row=row_of(job),
        page=view_of(page),
        chosen="" if kept is None else str(kept).lower(),
        after=after,
        most=MOST_CHARACTERS,
    )


@router.get("/{job_id}/logs/{stage}")
def logs(
    request: Request,
    job_id: JobId,
    stage: Annotated[Stage, Path()],
    visitor: ReaderDep,
    adaptations: AdaptationsDep,
) -> Response:
    """Show the end of a stage's log."""
    job = adaptations.get(job_id, visitor.caller)
    _, lines, _ = adaptations.logs(job_id, visitor.caller, stage, _NUM_LINES, None)
    return render(
        request,
        "logs.html",
        visitor,
        job=job,
        row=row_of(job),
        stage=stage.value,
        stages=[each.value for each in STAGES],
        lines=lines,
        most=_NUM_LINES,
    )


def first_events(adaptations: Adaptations, job_id: str, visitor: Visitor) -> list[Event]:
    """Return the events of a job in which its attempts are looked for."""
    return adaptations.events(job_id, visitor.caller, after=0, limit=NUM_EVENTS)[0]


@dataclass(frozen=True)
class _Times:
    """The time for which a job has run, and whether it still runs."""

    elapsed_s: int | None
    remaining: RemainingBody | None


def _times(adaptations: Adaptations, job: Job) -> _Times:
    return _Times(elapsed_s(job), adaptations.remaining(job))


class _JobLooks:
    """Reads one job again and again, each time the events after those of the time before."""

    def __init__(self, job_id: str, visitor: Visitor, adaptations: Adaptations, packs: PackService, after: int) -> None:
        self._job_id, self._visitor, self._adaptations, self._packs = job_id, visitor, adaptations, packs
        self._after = after
        self._seen: tuple[Status, str | None] | None = None
        self._records: JobRecords | None = None
        self._drawn: tuple[JobRecords, str] | None = None
        self._told: str | None = None
        self._first: list[Event] = []

    def look(self) -> streams.Look:
        """Return the job's parts as of now."""
        job = self._adaptations.get(self._job_id, self._visitor.caller)
        events, has_more = self._adaptations.events(
            self._job_id, self._visitor.caller, after=self._after, limit=_NUM_EVENTS
        )
        self._after = events[-1].id if events else self._after
        self._told = deployment_in_words(events) or self._told
        if events or not self._first:
            self._first = first_events(self._adaptations, self._job_id, self._visitor)
        records, pack = self._records_of(job), self._packs.served(job.result_pack)
        stages, lines = stages_of(job, records, pack), timelines_of(job, records, pack, self._first)
        return streams.Look(
            parts={
                "state": part("_jobs.html", "state", job, row_of(job), self._told, _times(self._adaptations, job)),
                "queue": part("_actions.html", "queued", row_of(job), self._place_of(job), self._token),
                "stages": part("_jobs.html", "way", stages, lines),
                "logs": part("_jobs.html", "logs", job.id, self._adaptations.logged(job.id, self._visitor.caller)),
                "outcome": self._outcome_of(records, job),
            },
            added=[("events", part("_jobs.html", "event", event)) for event in events],
            is_over=job.is_terminal and not has_more,
        )

    @property
    def _token(self) -> str | None:
        return self._visitor.form_token if self._visitor.may("jobs:write") else None

    def _place_of(self, job: Job) -> tuple[int, int] | None:
        return self._adaptations.place(job, self._visitor.caller)

    def _records_of(self, job: Job) -> JobRecords:
        """Read the job's records. They appear at the end of a stage and can be large, so they are read again only when
        the stage has changed; the curve of training grows meanwhile and is always read.
        """
        seen = job.status, job.stage
        if self._records is None or seen != self._seen:
            self._seen, self._records = seen, self._adaptations.records(self._job_id, self._visitor.caller)
        if job.stage == Stage.TRAIN and self._records.trained is None:
            curve = self._adaptations.curve(self._job_id, self._visitor.caller)
            if len(curve) != len(self._records.curve):
                self._records = replace(self._records, curve=curve)
        return self._records

    def _outcome_of(self, records: JobRecords, job: Job) -> str:
        """Render the result; the same records are rendered once."""
        if self._drawn is None or self._drawn[0] is not records:
            self._drawn = (
                records,
                part(
                    "_result.html",
                    "show",
                    result_of(records, job.adapt_config()),
                    self._adaptations.outcome(job),
                    row_of(job),
                ),
            )
        return self._drawn[1]
