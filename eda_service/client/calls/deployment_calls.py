"""The operations on deployments and packs as values, once for both clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eda_service.client.answers.answers import Page
from eda_service.client.answers.deployment_answers import (
    Deployment,
    DeploymentEvent,
    Pack,
    PackComparison,
    PackVersionDetail,
)
from eda_service.client.calls.calls import Call, given, one, page_of
from eda_service.errors import InputError
from eda_service.names import NAME_RULE, is_name
from eda_service.references import Reference


class Unset:
    """Stands for an argument that was not given, where None means something."""


UNSET: Final = Unset()
_ROOT, _PACKS, _VERSIONS = "/v1/deployments", "/v1/packs", "/v1/pack-versions"


def create(body: Mapping[str, Any]) -> Call[Deployment]:
    """Deploy something; an equal deployment is returned as it is, so the call may be repeated."""
    return Call("POST", _ROOT, one(Deployment), json=body, repeatable=True)


def get(name: str) -> Call[Deployment]:
    """One deployment with its history."""
    return Call("GET", _path(_ROOT, name), one(Deployment), repeatable=True)


def page(*, limit: int, after: str | None) -> Call[Page[Deployment]]:
    """Deployments by name."""
    return Call("GET", _ROOT, page_of(Deployment), params=given(limit=limit, after=after), repeatable=True)


def events(name: str, *, limit: int, before: int | None) -> Call[Page[DeploymentEvent]]:
    """What happened to a deployment, newest first."""
    params = given(limit=limit, before=before)
    return Call("GET", f"{_path(_ROOT, name)}/events", page_of(DeploymentEvent), params=params, repeatable=True)


def update(
    name: str,
    *,
    pack: str | Unset | None,
    replicas: int | Mapping[str, int] | None,
    labels: Mapping[str, str] | None,
    drift: Mapping[str, Any] | None,
    force: bool,
    reason: str | None,
) -> Call[Deployment]:
    """Change what is given."""
    body: dict[str, Any] = {} if isinstance(pack, Unset) else {"pack": pack}
    fields = {"replicas": replicas, "labels": labels, "drift": drift, "reason": reason}
    body |= {key: value for key, value in fields.items() if value is not None}
    if force:
        body["force"] = True
    return Call("PATCH", _path(_ROOT, name), one(Deployment), json=body, repeatable=True)


def rollback(name: str, *, revision: int | None, reason: str | None) -> Call[Deployment]:
    """Serve again what an earlier revision served."""
    body = {key: value for key, value in {"revision": revision, "reason": reason}.items() if value is not None}
    return Call("POST", f"{_path(_ROOT, name)}/rollback", one(Deployment), json=body)


def restart(name: str) -> Call[Deployment]:
    """Load what has failed once more."""
    return Call("POST", f"{_path(_ROOT, name)}/restart", one(Deployment))


def delete(name: str) -> Call[None]:
    """Stop serving."""
    return Call("DELETE", _path(_ROOT, name), lambda _: None)


def pack(name: str) -> Call[Pack]:
    """One pack with its versions."""
    return Call("GET", _path(_PACKS, name), one(Pack), repeatable=True)


def packs(*, limit: int, after: str | None) -> Call[Page[Pack]]:
    """Packs by name."""
    return Call("GET", _PACKS, page_of(Pack), params=given(limit=limit, after=after), repeatable=True)


def pin_champion(name: str, version: int | None) -> Call[Pack]:
    """Say which version the name alone and `name@champion` are."""
    return Call("PUT", f"{_path(_PACKS, name)}/champion", one(Pack), json={"version": version}, repeatable=True)


def pack_version(reference: str) -> Call[PackVersionDetail]:
    """One version with all that it says of itself."""
    return Call("GET", _version(reference), one(PackVersionDetail), repeatable=True)


def compare_packs(reference: str, other: str | None) -> Call[PackComparison]:
    """Two versions on the same prompts."""
    params = {} if other is None else {"other": str(_reference(other))}
    return Call("GET", f"{_version(reference)}/comparison", one(PackComparison), params=params, repeatable=True)


def delete_pack(reference: str) -> Call[str]:
    """Remove a version."""
    return Call("DELETE", _version(reference), lambda answer: str(answer["id"]))


def _version(reference: str) -> str:
    return f"{_VERSIONS}/{_reference(reference)}"


def _reference(text: str) -> Reference:
    found = Reference.parse(text)
    if found is None:
        raise InputError(f"{text[:96]!r} names no pack; write name@3; a name is {NAME_RULE}", param="pack")
    return found


def _path(root: str, name: str) -> str:
    if not is_name(name):
        raise InputError(f"{name[:64]!r} is no name; a name is {NAME_RULE}", param="name")
    return f"{root}/{name}"
