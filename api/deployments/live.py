"""The state of deployments: what the rows want, held against what Serve and the replicas say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from api.deployments.loading import MAX_ATTEMPTS, is_of
from api.deployments.replicas import LoadedGroup, LoadedVariant, ReplicaClient
from eda_service.jobstore import Deployment, Load, load_of, served_version
from eda_service.raycluster.serve_api import Application
from eda_service.raycluster.serve_plan import application_of, group_of

_FAILED = frozenset({"DEPLOY_FAILED", "UNHEALTHY"})


class DeploymentState(StrEnum):
    """Where a deployment is."""

    PENDING = "pending"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Live:
    """One deployment as it is.

    Attributes:
        state: ready means that requests get the wanted pack.
        reason: Why it is in another state.
        group: Key of its group.
        num_replicas: Of the group, that take requests.
        variant: What a replica has loaded for it, an earlier pack perhaps.
        base_bytes: Memory of the base target, shared by the group.
    """

    state: DeploymentState
    reason: str | None
    group: str
    num_replicas: int = 0
    variant: LoadedVariant | None = None
    base_bytes: int | None = None


def look(
    deployments: Sequence[Deployment],
    applications: Mapping[str, Application],
    replicas: ReplicaClient,
    loads: Mapping[str, Load],
    *,
    away: str | None,
) -> dict[str, Live]:
    """The state of each deployment by name; a group with running replicas is asked once.

    Args:
        deployments: Which.
        applications: Serve's word at the last look.
        replicas: Answers for them.
        loads: By name, how their loading goes.
        away: Why nothing can be served at all, if so.
    """
    bad = {each.name: _unreadable(each) for each in deployments if each.unreadable is not None}
    deployments = [each for each in deployments if each.unreadable is None]
    loads = {each.name: load_of(loads, each.name) for each in deployments}
    keys = {each.name: group_of(served_version(each, loads[each.name]) or each) for each in deployments}
    if away is not None:
        return bad | {name: _away(loads[name], key, away) for name, key in keys.items()}
    found = {key: applications.get(application_of(key)) for key in set(keys.values())}
    running = [key for key, application in found.items() if application is not None and application.num_running]
    loaded = replicas.loaded_in(running)
    return bad | {each.name: _one(each, loads[each.name], keys[each.name], found, loaded) for each in deployments}


def _away(load: Load, key: str, away: str) -> Live:
    """What is known without a cluster: a deployment that is not tried again has failed in any case."""
    return (
        Live(DeploymentState.FAILED, load.reason, key)
        if load.has_given_up
        else Live(DeploymentState.PENDING, away, key)
    )


def _unreadable(deployment: Deployment) -> Live:
    """What is served of it is what was served before its row was damaged."""
    return Live(DeploymentState.FAILED, f"its row cannot be read: {deployment.unreadable}", group_of(deployment))


def _one(
    wanted: Deployment,
    load: Load,
    key: str,
    applications: Mapping[str, Application | None],
    groups: Mapping[str, LoadedGroup | None],
) -> Live:
    application, group = applications[key], groups.get(key)
    if application is None:
        return _away(load, key, load.reason or "waiting for Ray Serve")
    variant = None if group is None else group.variant(wanted.uid)
    state, reason = _state(wanted, load, application, group)
    return Live(
        state=state,
        reason=reason,
        group=key,
        num_replicas=application.num_running or 0,
        variant=variant,
        base_bytes=None if group is None else group.base_bytes,
    )


def _state(
    wanted: Deployment, load: Load, application: Application, group: LoadedGroup | None
) -> tuple[DeploymentState, str | None]:
    if load.has_given_up:
        return DeploymentState.FAILED, load.reason
    variant = None if group is None else group.variant(wanted.uid)
    if variant is not None and is_of(variant, wanted):
        return DeploymentState.READY, None
    if load.is_waiting:
        return (
            DeploymentState.LOADING,
            f"attempt {load.num_failures} of {MAX_ATTEMPTS} failed and another follows: {load.reason}",
        )
    failures = () if group is None else group.failed
    for failed in failures:  # the watch has not seen it yet
        if is_of(failed, wanted) and failed.attempt == load.attempt:
            return DeploymentState.LOADING if failed.may_pass else DeploymentState.FAILED, failed.reason
    if application.status in _FAILED:
        is_counted = application.status == "DEPLOY_FAILED" and not application.num_running  # by the watch, soon
        told = f"{application.status}: {application.message}"[:1000]
        return DeploymentState.LOADING if is_counted else DeploymentState.FAILED, told
    return DeploymentState.LOADING, f"attempt {load.num_failures + 1} of {MAX_ATTEMPTS}" if load.num_failures else None
