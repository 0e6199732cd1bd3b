"""What a Ray cluster has: CPUs and GPUs of the nodes that are alive, over the dashboard's REST API.

The list of nodes is the state API's (`ray list nodes`), which answers within milliseconds and needs the same token as
Ray Jobs. What is free at the moment is not asked: a job waits for that in Ray.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import httpx

from eda_service.capacity import Capacity, Machines, largest_of

_TIMEOUT_S = 3.0
_KEPT_S = 10.0
_KIND = "accelerator_type:"  # a resource of nodes with GPUs, in Ray's terms
_MAX_NODES = 10_000  # as many as the state API lists at most


class RayCluster:
    """The nodes of one cluster, remembered for some seconds.

    Args:
        dashboard_url: e.g. `http://127.0.0.1:8265`.
        headers: Authentication, from `token.auth_headers`.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        dashboard_url: str,
        headers: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.Client(base_url=dashboard_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
        self._clock, self._lock = clock, threading.Lock()
        self._known: Machines | None = None
        self._read_at: float | None = None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def capacity(self) -> Capacity | None:
        """CPUs and GPUs of all nodes together; None while the dashboard does not answer or no node offers any CPU."""
        found = self.machines()
        return None if found is None else found.total

    def machines(self) -> Machines | None:
        """The nodes; None as above."""
        with self._lock:
            now = self._clock()
            if self._read_at is None or now - self._read_at >= _KEPT_S:
                self._known, self._read_at = self._read(), now
            return self._known

    def _read(self) -> Machines | None:
        try:
            response = self._http.get("/api/v0/nodes", params={"detail": "1", "limit": str(_MAX_NODES)})
            response.raise_for_status()
            nodes = response.json()["data"]["result"]["result"]
            alive = [node["resources_total"] for node in nodes if node["state"] == "ALIVE"]
            found = [Capacity(float(each.get("CPU", 0.0)), int(float(each.get("GPU", 0.0)))) for each in alive]
            kinds = [_kind(each) for each, node in zip(alive, found, strict=True) if node.gpus]
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
            return None
        # A head may offer no CPU itself: before the first node has come to it, nothing is known of what will be there.
        cpus = sum(node.cpus for node in found)
        if cpus <= 0:
            return None
        known = frozenset(kind for kind in kinds if kind is not None)
        return Machines(
            total=Capacity(cpus=cpus, gpus=sum(node.gpus for node in found)),
            largest=largest_of(found),
            kinds=frozenset() if None in kinds else known,
        )


def _kind(resources: Mapping[str, float]) -> str | None:
    return next((name.removeprefix(_KIND) for name in resources if name.startswith(_KIND)), None)
