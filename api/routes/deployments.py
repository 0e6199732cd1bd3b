"""`/v1/deployments`: what the endpoint serves, as a resource."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.deployments import views
from api.deployments.schemas import (
    DeletedBody,
    DeploymentBody,
    DeploymentChange,
    DeploymentDetail,
    DeploymentEventList,
    DeploymentList,
    DeploymentRequest,
    RollbackRequest,
)
from api.dispatcher.dispatcher import Dispatcher
from api.packs.packs import PackService
from api.routes.deps import DeploymentName, DeploymentsDep, DispatcherDep, LookerDep, PacksDep, WriterDep
from eda_service.jobstore import Deployment
from eda_service.names import MAX_NAME_CHARACTERS

router = APIRouter(prefix="/v1/deployments", tags=["deployments"])

Limit = Annotated[int, Query(ge=1, le=100, description="at most this many")]


@router.post("", status_code=201, responses={200: {"description": "an equal deployment was there"}})
def create(
    body: DeploymentRequest,
    response: Response,
    caller: WriterDep,
    deployments: DeploymentsDep,
    dispatcher: DispatcherDep,
    packs: PacksDep,
) -> DeploymentBody:
    """Serve a target under a name: 201 for a new deployment, 200 for an equal one that was there."""
    deployment, made = deployments.create(body, caller)
    response.status_code = 201 if made else 200
    response.headers["location"] = f"/v1/deployments/{deployment.name}"
    answer = _bodies([deployment], dispatcher, packs)[0]
    return answer.model_copy(update={"warnings": deployments.warnings(deployment, caller)}) if made else answer


@router.get("")
def page(
    caller: LookerDep,
    deployments: DeploymentsDep,
    dispatcher: DispatcherDep,
    packs: PacksDep,
    limit: Limit = 20,
    after: Annotated[
        str | None, Query(max_length=MAX_NAME_CHARACTERS, description="last name of the page before")
    ] = None,
) -> DeploymentList:
    """Deployments by name."""
    found, has_more = deployments.page(caller, limit=limit, after=after)
    data = _bodies(found, dispatcher, packs)
    return DeploymentList(
        data=data,
        has_more=has_more,
        first_id=data[0].name if data else None,
        last_id=data[-1].name if data else None,
    )


@router.get("/{name}")
def get(
    name: DeploymentName, caller: LookerDep, deployments: DeploymentsDep, dispatcher: DispatcherDep, packs: PacksDep
) -> DeploymentDetail:
    """One deployment with its history."""
    deployment = deployments.get(name, caller)
    live = dispatcher.look([deployment])[deployment.name]
    drift = dispatcher.drift.drift_body(deployment)
    return views.deployment_detail(deployment, live, packs, deployments.history(name, caller), drift)


@router.get("/{name}/events")
def events(
    name: DeploymentName,
    caller: LookerDep,
    deployments: DeploymentsDep,
    limit: Limit = 20,
    before: Annotated[int, Query(ge=0, le=2**31 - 1, description="last id of the page before")] = 0,
) -> DeploymentEventList:
    """What happened to a deployment: what did not load, acceptance that fell or rose, what was done; newest first."""
    found, has_more = deployments.events(name, caller, before=before, limit=limit)
    return views.deployment_events(found, has_more)


@router.patch("/{name}")
def change(
    name: DeploymentName,
    body: DeploymentChange,
    caller: WriterDep,
    deployments: DeploymentsDep,
    dispatcher: DispatcherDep,
    packs: PacksDep,
) -> DeploymentBody:
    """Swap the pack, or change replicas, labels or drift settings; running requests end with their pack."""
    return _bodies([deployments.change(name, body, caller)], dispatcher, packs)[0]


@router.post("/{name}/rollback")
def rollback(
    name: DeploymentName,
    body: RollbackRequest,
    caller: WriterDep,
    deployments: DeploymentsDep,
    dispatcher: DispatcherDep,
    packs: PacksDep,
) -> DeploymentBody:
    """Serve again what an earlier revision served, as a new revision."""
    return _bodies([deployments.rollback(name, body, caller)], dispatcher, packs)[0]


@router.post("/{name}/restart")
def restart(
    name: DeploymentName, caller: WriterDep, deployments: DeploymentsDep, dispatcher: DispatcherDep, packs: PacksDep
) -> DeploymentBody:
    """Load a deployment that has failed once more, after its reason was put right; 409 when it has not failed."""
    return _bodies([deployments.restart(name, caller)], dispatcher, packs)[0]


@router.delete("/{name}")
def delete(name: DeploymentName, caller: WriterDep, deployments: DeploymentsDep) -> DeletedBody:
    """Stop serving; running requests end, packs stay in the registry."""
    deployments.delete(name, caller)
    return DeletedBody(name=name)


def _bodies(found: Sequence[Deployment], dispatcher: Dispatcher, packs: PackService) -> list[DeploymentBody]:
    live = dispatcher.look(found)
    return [views.deployment_body(each, live[each.name], packs) for each in found]
