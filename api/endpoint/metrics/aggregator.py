"""The sum over a group's replicas: one actor per group, to which every replica sends its totals.

Replicas send totals, not differences, so a report that arrives twice, late or never is no error. The last totals of an
engine that has ended stay in the sum. `MetricsAggregator` holds the arithmetic; `RemoteAggregator` is its actor as a
replica sees it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.group_metrics import (
    GroupMetrics,
    Report,
    Variant,
    VariantMetrics,
    add_counts,
    add_loaded,
    add_numbers,
)
from eda_service.errors import ResourceError

GONE_AFTER_S = 15.0
_FOLD_AFTER_S = 3600.0
_ALONE_FOR_S = 900.0
_LOOK_EVERY_S = 30.0
NAMESPACE = "eda"


class MetricsAggregatorAwayError(ResourceError):
    """The actor that adds up a group's metrics died, or its node did; Ray starts it again."""

    code = "metrics_unavailable"
    retryable = True


class MetricsAggregator:
    """Adds up the reports of replicas.

    Args:
        clock: Clock in seconds that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: dict[str, tuple[float, Report]] = {}
        self._engines: dict[str, tuple[float, list[VariantMetrics]]] = {}
        self._past: dict[Variant, ModelCounts] = {}
        self._past_swaps: Counter[str] = Counter()
        self._heard_at = clock()

    @property
    def silent_s(self) -> float:
        """Seconds since the last report."""
        return self._clock() - self._heard_at

    def put(self, report: Report) -> None:
        """Take a replica's totals in place of those that it sent before."""
        now = self._heard_at = self._clock()
        self._replicas[report.replica] = now, report
        for engine, variants in report.engines.items():
            self._engines[engine] = now, variants
        self._fold(now)

    def read(self) -> GroupMetrics:
        """Return the group's sum."""
        now = self._clock()
        totals = dict(self._past)
        running: Counter[tuple[str, str | None]] = Counter()
        waiting: Counter[tuple[str, str | None]] = Counter()
        for heard_at, variants in self._engines.values():
            totals = add_counts(totals, variants)
            if now - heard_at <= GONE_AFTER_S:
                running.update({(each.uid, each.pack): each.num_running for each in variants})
                waiting.update({(each.uid, each.pack): each.num_waiting for each in variants})
        there = [report for heard_at, report in self._replicas.values() if now - heard_at <= GONE_AFTER_S]
        base_bytes: int | None = None
        for report in there:
            base_bytes = add_numbers(base_bytes, report.base_bytes)
        return GroupMetrics(
            variants=[
                VariantMetrics(uid, pack, counts, running[uid, pack], waiting[uid, pack])
                for (uid, pack), counts in totals.items()
            ],
            loaded=add_loaded(there),
            swaps=dict(sum((Counter(report.swaps) for _, report in self._replicas.values()), self._past_swaps)),
            base_bytes=base_bytes,
            num_replicas=len(there),
        )

    def _fold(self, now: float) -> None:
        """Replace the totals of engines that ended long ago by their sum."""
        for engine, (heard_at, variants) in list(self._engines.items()):
            if now - heard_at > _FOLD_AFTER_S:
                self._past = add_counts(self._past, variants)
                del self._engines[engine]
        for replica, (heard_at, report) in list(self._replicas.items()):
            if now - heard_at > _FOLD_AFTER_S:
                self._past_swaps += Counter(report.swaps)
                del self._replicas[replica]


class GroupAggregator(Protocol):
    """An aggregator in this or another process."""

    async def put(self, report: Report) -> None:
        """Send a replica's totals."""

    async def read(self) -> GroupMetrics:
        """Return the group's sum."""


class AggregatorActor:
    """An aggregator in a process of its own, which ends when no replica has reported for a quarter of an hour."""

    def __init__(self) -> None:
        self._aggregator = MetricsAggregator()
        self._watch: asyncio.Task[None] | None = None

    async def put(self, report: Report) -> None:
        """Take a replica's totals."""
        self._aggregator.put(report)
        if self._watch is None:
            self._watch = asyncio.create_task(self._end_when_alone())

    async def read(self) -> GroupMetrics:
        """Return the group's sum."""
        return self._aggregator.read()

    async def _end_when_alone(self) -> None:
        import ray

        while self._aggregator.silent_s < _ALONE_FOR_S:
            await asyncio.sleep(_LOOK_EVERY_S)
        ray.kill(ray.get_runtime_context().current_actor)


class RemoteAggregator:
    """The named actor of a group; the first replica that needs it makes it.

    Args:
        application: Serve's name of the group.
    """

    def __init__(self, application: str) -> None:
        # One of an older version, whose classes have other names, runs beside it.
        self._name = f"{application}-metrics-totals"
        self._actor: Any = None

    async def put(self, report: Report) -> None:
        """Send a replica's totals.

        Raises:
            MetricsAggregatorAwayError: The actor does not take the totals; the next report contains them.
        """
        await self._call("put", report)

    async def read(self) -> GroupMetrics:
        """Return the group's sum.

        Raises:
            MetricsAggregatorAwayError: The actor does not answer.
        """
        found: GroupMetrics = await self._call("read")
        return found

    async def _call(self, method: str, *arguments: Any) -> Any:
        from ray.exceptions import RayError

        try:
            if self._actor is None:
                self._actor = await asyncio.to_thread(self._connect)
            return await getattr(self._actor, method).remote(*arguments)
        except RayError as error:
            self._actor = None
            raise MetricsAggregatorAwayError(
                f"the metrics of {self._name} are away: {type(error).__name__}; ask again"
            ) from error

    def _connect(self) -> Any:
        import ray

        options = {"name": self._name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
        return ray.remote(AggregatorActor).options(num_cpus=0, max_restarts=-1, **options).remote()
