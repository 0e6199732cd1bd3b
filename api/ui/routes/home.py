"""The first page: fine-tunes, the queue, the disk."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from api.metrics.disk import Disk, DiskUse
from api.routes.deps import (
    AdaptationsDep,
    DeploymentsDep,
    DiskDep,
    DispatcherDep,
    FeedDep,
    HistoryDep,
    KeysDep,
    PacksDep,
)
from api.ui import streams
from api.ui.access import LookerDep, Visitor
from api.ui.home_page import Card, Queue, Services, cards_of, longest, queue_of
from api.ui.rendering import part, render

router = APIRouter()

_INTERVAL_S = 3.0


def _services(
    adaptations: AdaptationsDep,
    deployments: DeploymentsDep,
    dispatcher: DispatcherDep,
    packs: PacksDep,
    history: HistoryDep,
) -> Services:
    return Services(adaptations, deployments, dispatcher, packs, history)


ServicesDep = Annotated[Services, Depends(_services)]


@router.get("/")
def page(request: Request, visitor: LookerDep, services: ServicesDep, disk: DiskDep) -> Response:
    """Show fine-tunes, the queue and the disk."""
    cards, has_more, queue = _look(services, visitor)
    return render(
        request,
        "home.html",
        visitor,
        cards=cards,
        has_more=has_more,
        longest=longest(cards),
        queue=queue,
        disk=_disk(disk, visitor),
        sees_disk=visitor.caller.sees is None,
    )


@router.get("/stream")
async def stream(visitor: LookerDep, services: ServicesDep, disk: DiskDep, feed: FeedDep, keys: KeysDep) -> Response:
    """Stream the first page's parts as they change."""

    def look() -> streams.Look:
        cards, has_more, queue = _look(services, visitor)
        parts = {"cards": part("_home.html", "all", cards, longest(cards), has_more)}
        if queue is not None:
            parts["queue"] = part("_home.html", "queue", queue)
        if visitor.caller.sees is None:
            parts["disk"] = part("_home.html", "disk", _disk(disk, visitor))
        return streams.Look(parts)

    return await streams.answer(feed, keys, visitor, look, interval_s=_INTERVAL_S)


def _look(services: Services, visitor: Visitor) -> tuple[list[Card], bool, Queue | None]:
    """Return the cards, and the queue for visitors who may read jobs."""
    queue = queue_of(services, visitor.caller) if visitor.may("jobs:read") else None
    cards, has_more = cards_of(services, visitor.caller, () if queue is None else queue.rows)
    return cards, has_more, queue


def _disk(disk: Disk, visitor: Visitor) -> DiskUse | None:
    """Return the disk space of the whole service, for visitors who may see all jobs; None for all others."""
    return disk.look() if visitor.caller.sees is None else None
