"""What the replicas of a group say they have loaded: the difference between a wanted deployment and a live one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from api.endpoint.metrics.group_metrics import GROUP_METRICS, GroupMetrics
from eda_service.raycluster.serve_plan import route_prefix_of

logger = logging.getLogger(__name__)

_TIMEOUT_S = 2.0
_MAX_AT_ONCE = 16


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class LoadedVariant(_Answer):
    """One deployment in a replica."""

    name: str
    uid: str = ""
    base_draft: str | None = None
    pack: str | None = None
    loaded_at: int
    num_running: int
    adapter_bytes: int | None = None
    pack_bytes: int | None = None


class FailedVariant(_Answer):
    """What could not be loaded for a deployment, and why; an earlier variant may answer for it."""

    name: str
    uid: str = ""
    base_draft: str | None = None
    pack: str | None = None
    reason: str
    attempt: int = 0
    code: str = "load_failed"
    may_pass: bool = False


class LoadedGroup(_Answer):
    """One replica's memory and what is in it."""

    base_bytes: int | None = None
    variants: tuple[LoadedVariant, ...] = ()
    failed: tuple[FailedVariant, ...] = ()

    def variant(self, uid: str) -> LoadedVariant | None:
        """The variant of a deployment, if it is loaded; what an older replica says under a name alone is nobody's."""
        return next((each for each in self.variants if each.uid == uid), None)


class ReplicaClient:
    """Asks replicas, through Serve's proxy, any one of several: memory is its own, metrics are the group's.

    Args:
        serve_url: Base URL of Ray Serve.
    """

    def __init__(self, serve_url: str) -> None:
        self._http = httpx.Client(base_url=serve_url, timeout=_TIMEOUT_S, trust_env=False)
        self._silent: set[tuple[str, str]] = set()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def loaded(self, group: str) -> LoadedGroup | None:
        """What a replica of a group has loaded; None when none answers in time."""
        try:
            answer = self._http.get(f"{route_prefix_of(group)}/internal/variants")
            found = LoadedGroup.model_validate_json(answer.content) if answer.is_success else None
        except (httpx.HTTPError, ValidationError) as error:
            self._warn(group, "has loaded", error)
            return None
        self._silent.discard((group, "has loaded"))
        return found

    def loaded_in(self, groups: Sequence[str]) -> dict[str, LoadedGroup | None]:
        """The same of several groups, asked at once."""
        if not groups:
            return {}
        with ThreadPoolExecutor(min(len(groups), _MAX_AT_ONCE)) as pool:
            return dict(zip(groups, pool.map(self.loaded, groups), strict=True))

    def metrics(self, groups: Sequence[str]) -> dict[str, GroupMetrics | None]:
        """What all replicas of each group have done; None for a group of which none answers in time."""
        if not groups:
            return {}
        with ThreadPoolExecutor(min(len(groups), _MAX_AT_ONCE)) as pool:
            return dict(zip(groups, pool.map(self._metrics, groups), strict=True))

    def _metrics(self, group: str) -> GroupMetrics | None:
        try:
            answer = self._http.get(f"{route_prefix_of(group)}/internal/metrics")
            found = GROUP_METRICS.validate_json(answer.content) if answer.is_success else None
        except (httpx.HTTPError, ValidationError) as error:
            self._warn(group, "has done", error)
            return None
        self._silent.discard((group, "has done"))
        return found

    def _warn(self, group: str, what: str, error: Exception) -> None:
        """Said once until the group answers again: it is asked all the time."""
        if (group, what) not in self._silent:
            self._silent.add((group, what))
            logger.warning("group %s does not say what it %s: %s", group, what, type(error).__name__)
