"""Reports a replica's totals to its group's aggregator, every two seconds and before `/internal/metrics` answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from api.endpoint.engines.interfaces import Runner, ServedPair
from api.endpoint.metrics.aggregator import GroupAggregator
from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.group_metrics import GroupMetrics, LoadedModel, Report, VariantMetrics
from api.endpoint.protocol.schemas import ReplicaMemory
from eda_service.errors import EdaError

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
_MEMORY_TIMEOUT_S = 1.0


class MetricsReporter:
    """Sends the reports of one replica.

    Args:
        replica: Id of the replica.
        aggregator: Aggregator of the group.
        pairs: Function that returns the pairs served now.
        memory: Function that returns their memory.
    """

    def __init__(
        self,
        replica: str,
        aggregator: GroupAggregator,
        pairs: Callable[[], Sequence[ServedPair]],
        memory: Callable[[], Awaitable[ReplicaMemory]],
    ) -> None:
        self._replica, self._aggregator, self._pairs, self._memory = replica, aggregator, pairs, memory
        self._engines: dict[Runner, str] = {}
        self._served: dict[str, str | None] = {}
        self._swaps: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to report, on this event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._report_always())

    async def stop(self) -> None:
        """Report a last time and stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._aggregator.put(await self.report())

    async def read(self) -> GroupMetrics:
        """Return the group's sum, with this replica's part as of now."""
        await self._aggregator.put(await self.report())
        return await self._aggregator.read()

    def look(self) -> None:
        """Note which models are served now; call it after each change, so that no engine and no swap is missed."""
        for pair in self._pairs():
            self._engines.setdefault(pair.runner, f"{self._replica}/{secrets.token_hex(4)}")
            if pair.uid in self._served and self._served[pair.uid] != pair.pack:
                self._swaps[pair.uid] += 1
            self._served[pair.uid] = pair.pack

    async def report(self) -> Report:
        """Make the report of this replica's totals."""
        self.look()
        ended = [runner for runner in self._engines if not runner.is_alive]
        engines = {engine: _variants(runner) for runner, engine in self._engines.items()}
        memory = await self._held()
        variants = {each.uid: each for each in memory.variants} if memory is not None else {}
        loaded = []
        for pair in self._pairs():
            held = variants.get(pair.uid)
            sizes = (None, None) if held is None else (held.adapter_bytes, held.pack_bytes)
            loaded.append(LoadedModel(pair.uid, pair.pack, pair.base_draft, *sizes))
        base_bytes = None if memory is None else memory.base_bytes
        report = Report(self._replica, engines, loaded, dict(self._swaps), base_bytes)
        for runner in ended:
            del self._engines[runner]  # its last totals are in this report
        return report

    async def _held(self) -> ReplicaMemory | None:
        try:
            async with asyncio.timeout(_MEMORY_TIMEOUT_S):
                return await self._memory()
        except (EdaError, TimeoutError):
            return None  # an engine has failed or has just been retired

    async def _report_always(self) -> None:
        while True:
            try:
                await self._aggregator.put(await self.report())
            except EdaError as error:
                logger.warning("%s", error.message)
            await asyncio.sleep(INTERVAL_S)


def _variants(runner: Runner) -> list[VariantMetrics]:
    found = {
        (uid, pack): VariantMetrics(uid, pack, ModelCounts() + counts)
        for (uid, pack), counts in list(runner.counts.items())
    }
    for (uid, pack, has_slot), number in runner.open_by_model().items():
        variant = found.setdefault((uid, pack), VariantMetrics(uid, pack))
        if has_slot:
            variant.num_running += number
        else:
            variant.num_waiting += number
    return list(found.values())
