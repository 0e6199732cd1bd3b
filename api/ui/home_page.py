"""Content of the first page: a card for each fine-tune, and the queue.

A fine-tune is the name of a deployment, of a pack, or under which a job's result will be served. Fine-tunes that are
served come first, then those of running jobs, then packs that no deployment serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from api.auth import Caller
from api.deployments import views
from api.deployments.deployments import DeploymentService
from api.deployments.schemas import DeploymentBody, EvaluationBody
from api.dispatcher.dispatcher import Dispatcher
from api.jobs.adaptations import Adaptations
from api.metrics.history import ServingHistory
from api.packs.packs import PackService
from api.ui.jobs.job_page import JobLine, row_of
from eda_service.jobstore import Job, Status

MOST_CARDS = 24
_MOST_JOBS = 5


@dataclass(frozen=True)
class Card:
    """One fine-tune.

    Attributes:
        path: Path of the fine-tune's page.
        state: State of its deployment or of its job; `not served` for a pack alone.
        pack: Reference of the pack that is served, or of the newest one.
        base: Acceptance length of the base draft alone, where the pack reports it.
        adapted: Acceptance length of the pack.
        tokens_per_s: Tokens per second between the last two readings.
        job: Job that works on the fine-tune.
    """

    name: str
    path: str
    target: str
    state: str
    pack: str | None
    base: float | None
    adapted: float | None
    tokens_per_s: float | None
    job: JobLine | None

    @property
    def is_served(self) -> bool:
        """Whether the fine-tune has a deployment."""
        return self.path.startswith("/ui/deployments/")


@dataclass(frozen=True)
class Queue:
    """The running and waiting jobs.

    Attributes:
        counts: Numbers of all jobs by status.
        rows: Running jobs and the newest waiting ones; if there are none, the newest jobs that have ended.
    """

    counts: dict[str, int]
    rows: tuple[JobLine, ...]
    is_idle: bool


@dataclass(frozen=True)
class Services:
    """The services from which the first page reads."""

    adaptations: Adaptations
    deployments: DeploymentService
    dispatcher: Dispatcher
    packs: PackService
    history: ServingHistory


def queue_of(services: Services, caller: Caller) -> Queue:
    """Return a short form of the queue."""
    live = [*_jobs(services, caller, Status.RUNNING), *_jobs(services, caller, Status.QUEUED)]
    shown = live or _jobs(services, caller, None)
    counts = services.adaptations.counts(caller)
    return Queue(counts, tuple(row_of(job) for job in shown), is_idle=not live)


def _jobs(services: Services, caller: Caller, status: Status | None) -> list[Job]:
    return services.adaptations.page(caller, limit=_MOST_JOBS, after=None, status=status, labels={})[0]


def cards_of(services: Services, caller: Caller, rows: Iterable[JobLine]) -> tuple[list[Card], bool]:
    """Return at most `MOST_CARDS` cards, and whether there are more.

    Args:
        services: Services to read from.
        caller: Caller whose page it is.
        rows: Jobs of the queue that the caller may see.
    """
    working = {row.name: row for row in reversed(tuple(rows)) if row.is_live}  # one that runs before one that waits
    found, has_more = services.deployments.page(caller, limit=MOST_CARDS, after=None)
    live = services.dispatcher.look(found)
    served = [
        _of_deployment(
            views.deployment_body(each, live[each.name], services.packs),
            services.history.tokens_per_s(each.uid),
            working.get(each.name),
        )
        for each in found
    ]
    names = {card.name for card in served} | {str(card.pack).partition("@")[0] for card in served}
    others = [name for name in services.packs.names(caller) if name not in names]
    made = [_of_pack(name, services.packs, caller, working.get(name)) for name in others[:MOST_CARDS]]
    begun = [_of_job(row) for name, row in working.items() if name not in {*names, *others}]
    cards = [*served, *begun, *sorted(made, key=lambda card: card.job is None)]
    return cards[:MOST_CARDS], has_more or len(cards) > MOST_CARDS or len(others) > len(made)


def _of_deployment(body: DeploymentBody, tokens_per_s: float | None, job: JobLine | None) -> Card:
    base, adapted = _lengths(body.evaluation)
    target = body.model + (f" + {body.adapter}" if body.adapter else "")
    path = f"/ui/deployments/{body.name}"
    return Card(body.name, path, target, body.state, body.pack, base, adapted, tokens_per_s, job)


def _of_pack(name: str, packs: PackService, caller: Caller, job: JobLine | None) -> Card:
    pack = views.pack_body(name, packs.versions(name, caller), packs, caller)
    best = next((each for each in pack.versions if each.version == pack.champion), pack.versions[0])
    base, adapted = _lengths(best.evaluation)
    target = best.target or {}
    told = str(target.get("model", "")) + (f" + {target['adapter']}" if target.get("adapter") else "")
    return Card(name, f"/ui/packs/{name}", told, "not served", best.id, base, adapted, None, job)


def _of_job(row: JobLine) -> Card:
    return Card(row.name, f"/ui/jobs/{row.id}", row.target, row.status, None, None, None, None, row)


def _lengths(evaluation: EvaluationBody | None) -> tuple[float | None, float | None]:
    return (None, None) if evaluation is None else (evaluation.base_acceptance_length, evaluation.acceptance_length)


def longest(cards: Sequence[Card]) -> float:
    """Return the end of the scale on which all bars are drawn."""
    return max((each for card in cards for each in (card.base, card.adapted) if each is not None), default=1.0)
