"""Errors of the service at the command line: the routes that they name are the commands that show the same."""

from __future__ import annotations

from collections.abc import Mapping

from eda_service.named_routes import reworded

_GROUPS: Mapping[str, str] = {
    "adaptations": "jobs",
    "deployments": "deployments",
    "drafts": "drafts",
    "files": "data",
    "jobs": "jobs",
    "models": "models",
    "packs": "packs",
}
_WITHOUT_SHOW = frozenset({"data", "models"})


def as_commands(message: str) -> str:
    """A message of the service as it is said at the command line."""
    return reworded(message, _command)


def _command(resource: str, one: str | None) -> str | None:
    group = _GROUPS.get(resource)
    if group is None:
        return None
    if one is None or group in _WITHOUT_SHOW:
        return f"`eda {group} ls`"
    return f"`eda {group} show {one}`"
