"""The state of deployments: what the rows want, held against what Serve and the replicas say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from api.services.replicas import FailedVariant, LoadedGroup, LoadedVariant, Replicas
from eda_service.distributed.serve_config import Application, application_of, group_of
from eda_service.jobstore import Deployment

_FAILED = frozenset({"DEPLOY_FAILED", "UNHEALTHY"})


class State(StrEnum):
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

    state: State
    reason: str | None
    group: str
    num_replicas: int = 0
    variant: LoadedVariant | None = None
    base_bytes: int | None = None


def look(
    deployments: Sequence[Deployment], applications: Mapping[str, Application], replicas: Replicas, *, away: str | None
) -> dict[str, Live]:
    """The state of each deployment by name; a group with running replicas is asked once.

    Args:
        deployments: Which.
        applications: Serve's word at the last look.
        replicas: Answers for them.
        away: Why nothing can be served at all, if so.
    """
    bad = {each.name: _unreadable(each) for each in deployments if each.unreadable is not None}
    deployments = [each for each in deployments if each.unreadable is None]
    keys = {each.name: group_of(each) for each in deployments}
    if away is not None:
        return bad | {name: Live(State.PENDING, away, key) for name, key in keys.items()}
    found = {key: applications.get(application_of(key)) for key in set(keys.values())}
    loaded = {
        key: replicas.loaded(key)
        for key, application in found.items()
        if application is not None and application.num_running
    }
    return bad | {each.name: _one(each, keys[each.name], found, loaded) for each in deployments}


def _unreadable(deployment: Deployment) -> Live:
    """What is served of it is what was served before its row was damaged."""
    return Live(State.FAILED, f"its row cannot be read: {deployment.unreadable}", group_of(deployment))


def _one(
    wanted: Deployment,
    key: str,
    applications: Mapping[str, Application | None],
    groups: Mapping[str, LoadedGroup | None],
) -> Live:
    application, group = applications[key], groups.get(key)
    if application is None:
        return Live(State.PENDING, "waiting for Ray Serve", key)
    variant = None if group is None else group.variant(wanted.uid)
    failed = () if group is None else group.failed
    why = next((each.reason for each in failed if each.uid == wanted.uid and _is_wanted(each, wanted)), None)
    state, reason = State.LOADING, None
    if variant is not None and _is_wanted(variant, wanted):
        state = State.READY
    elif why is not None:
        state, reason = State.FAILED, why
    elif application.status in _FAILED:
        state, reason = State.FAILED, f"{application.status}: {application.message}"[:1000]
    return Live(
        state=state,
        reason=reason,
        group=key,
        num_replicas=application.num_running or 0,
        variant=variant,
        base_bytes=None if group is None else group.base_bytes,
    )


def _is_wanted(found: LoadedVariant | FailedVariant, wanted: Deployment) -> bool:
    return (found.pack, found.base_draft) == (wanted.pack, wanted.base_draft)
