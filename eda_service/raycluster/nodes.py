"""The resources of a Ray cluster: CPUs and GPUs of the live nodes, over the dashboard's REST API.

The list of nodes comes from the state API (`ray list nodes`), which answers within milliseconds and needs the same
token as Ray Jobs. The currently free resources are not asked for: a job waits for them in Ray.
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
_MAX_NODES = 10_000  # the largest number that the state API lists


class RayCluster:
    """The nodes of one cluster, remembered for some seconds.

    Args:
        dashboard_url: Address of the dashboard, for example `http://127.0.0.1:8265`.
        headers: Headers of authentication, from `token.auth_headers`.
        clock: Monotonic clock in seconds.
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
        """Return CPUs and GPUs of all nodes together; None while the dashboard does not answer or no
        node offers a CPU.
        """
        found = self.machines()
        return None if found is None else found.total

    def machines(self) -> Machines | None:
        """Return the nodes; None while the dashboard does not answer or no node offers a CPU."""
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
        # A head may offer no CPU itself: before the first node has joined, the size of the cluster is unknown.
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
