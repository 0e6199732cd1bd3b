"""Pages of deployments: states, acceptance against the published value, throughput, memory, history."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from api.deployments import views
from api.deployments.deployments import DeploymentService
from api.deployments.schemas import DeploymentBody, DeploymentDetail
from api.dispatcher.dispatcher import Dispatcher
from api.metrics.history import ServingHistory
from api.metrics.throughput import Reading, rates_between
from api.packs.packs import PackService
from api.routes.deps import (
    DeploymentName,
    DeploymentsDep,
    DispatcherDep,
    FeedDep,
    HistoryDep,
    KeysDep,
    MetricsDep,
    PacksDep,
    StoreDep,
)
from api.ui import streams
from api.ui.access import FormDep, LookerDep, Visitor, WriterDep
from api.ui.charts import Chart
from api.ui.forms import rollback_of, swap_of
from api.ui.rendering import go, part, render, service_url
from api.ui.serving_charts import DEPTH, lately
from api.ui.snippets import asking
from eda_service.names import MAX_NAME_CHARACTERS

router = APIRouter(prefix="/deployments")

_PAGE = 50
_NUM_EVENTS = 50
_INTERVAL_S = 2.0


@router.get("")
def page(
    request: Request,
    visitor: LookerDep,
    deployments: DeploymentsDep,
    dispatcher: DispatcherDep,
    packs: PacksDep,
    store: StoreDep,
    after: Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)] = None,
) -> Response:
    """Show deployments by name."""
    found, has_more = deployments.page(visitor.caller, limit=_PAGE, after=after)
    live = dispatcher.look(found)
    bodies = [views.deployment_body(each, live[each.name], packs) for each in found]
    seen = store.drifts.all()
    drifts = {each.name: dispatcher.drift.drift_body(each, seen) for each in found}
    return render(
        request, "deployments.html", visitor, deployments=bodies, drifts=drifts, has_more=has_more, after=after
    )


@router.get("/stream")
async def page_stream(
    visitor: LookerDep,
    deployments: DeploymentsDep,
    dispatcher: DispatcherDep,
    packs: PacksDep,
    store: StoreDep,
    feed: FeedDep,
    keys: KeysDep,
    after: Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)] = None,
) -> Response:
    """Stream the rows of a page of deployments, as they change."""

    def look() -> streams.Look:
        found, _ = deployments.page(visitor.caller, limit=_PAGE, after=after)
        live, seen = dispatcher.look(found), store.drifts.all()
        bodies: list[DeploymentBody] = [views.deployment_body(each, live[each.name], packs) for each in found]
        return streams.Look(
            {
                f"row-{body.name}": part("_deployments.html", "row", body, dispatcher.drift.drift_body(each, seen))
                for each, body in zip(found, bodies, strict=True)
            }
        )

    return await streams.answer(feed, keys, visitor, look, interval_s=_INTERVAL_S)


@router.get("/{name}")
def detail(
    request: Request,
    name: DeploymentName,
    visitor: LookerDep,
    deployments: DeploymentsDep,
    dispatcher: DispatcherDep,
    packs: PacksDep,
    metrics: MetricsDep,
    history: HistoryDep,
) -> Response:
    """Show one deployment."""
    deployment = deployments.get(name, visitor.caller)
    target = deployment.target
    again = {"model": target.get("model"), "adapter": target.get("adapter"), "name": name}
    again |= {"draft": deployment.base_draft, "kept": name if deployment.drift.get("keep_prompts") else None}
    events, _ = deployments.events(name, visitor.caller, before=0, limit=_NUM_EVENTS)
    body = _detail(name, visitor, deployments, dispatcher, packs)
    return render(
        request,
        "deployment.html",
        visitor,
        deployment=body,
        charts=_charts(deployment.uid, body, history),
        snippets=asking(service_url(request), name, needs_key=not visitor.is_open),
        reading=metrics.reading(deployment),
        rates=None,
        events=events,
        again={field: value for field, value in again.items() if value},
    )


@router.post("/{name}/rollback")
def rollback(name: DeploymentName, visitor: WriterDep, deployments: DeploymentsDep, form: FormDep) -> Response:
    """Serve an earlier revision again."""
    deployments.rollback(name, rollback_of(form.get("revision", "")), visitor.caller)
    return go(f"/deployments/{name}")


@router.post("/{name}/pack")
def swap(name: DeploymentName, visitor: WriterDep, deployments: DeploymentsDep, form: FormDep) -> Response:
    """Serve another pack, or none."""
    deployments.change(name, swap_of(form), visitor.caller)
    return go(f"/deployments/{name}")


@router.post("/{name}/restart")
def restart(name: DeploymentName, visitor: WriterDep, deployments: DeploymentsDep, _form: FormDep) -> Response:
    """Load a failed deployment again."""
    deployments.restart(name, visitor.caller)
    return go(f"/deployments/{name}")


@router.post("/{name}/remove")
def remove(name: DeploymentName, visitor: WriterDep, deployments: DeploymentsDep, _form: FormDep) -> Response:
    """Stop serving a deployment."""
    deployments.delete(name, visitor.caller)
    return go("/deployments")


@router.get("/{name}/stream")
async def detail_stream(
    name: DeploymentName,
    visitor: LookerDep,
    deployments: DeploymentsDep,
    dispatcher: DispatcherDep,
    packs: PacksDep,
    metrics: MetricsDep,
    history: HistoryDep,
    feed: FeedDep,
    keys: KeysDep,
) -> Response:
    """Stream state, throughput and the last hours of a deployment."""
    before: list[Reading] = []

    def look() -> streams.Look:
        deployment = deployments.get(name, visitor.caller)
        reading = metrics.reading(deployment)
        rates = rates_between(before[-1], reading) if before and reading is not None else None
        before[:] = [] if reading is None else [reading]
        body = _detail(name, visitor, deployments, dispatcher, packs)
        return streams.Look(
            {
                "state": part("_deployments.html", "state", body),
                "served": part("_deployments.html", "served", reading, rates),
                "lately": part("_deployments.html", "lately", _charts(deployment.uid, body, history)),
            }
        )

    return await streams.answer(feed, keys, visitor, look, interval_s=_INTERVAL_S)


def _charts(uid: str, deployment: DeploymentDetail, history: ServingHistory) -> list[Chart]:
    evaluation = deployment.evaluation
    return lately(history.spans(uid, depth=DEPTH if evaluation is None else evaluation.num_draft_tokens), evaluation)


def _detail(
    name: str, visitor: Visitor, deployments: DeploymentService, dispatcher: Dispatcher, packs: PackService
) -> DeploymentDetail:
    deployment = deployments.get(name, visitor.caller)
    live = dispatcher.look([deployment])[name]
    history = deployments.history(name, visitor.caller)
    return views.deployment_detail(deployment, live, packs, history, dispatcher.drift.drift_body(deployment))
