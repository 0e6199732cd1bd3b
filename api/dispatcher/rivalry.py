"""Tells a job, until it begins to measure, which published packs it has to beat: the pack served under its name, and
the best version of its pack. The job measures them beside its own pack, and promotion decides by the results.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from api.packs.packs import PackService
from eda_service.errors import EdaError, NotFoundError
from eda_service.jobstore import Job
from eda_service.jobstore.deployments.deployments import DeploymentStore
from eda_service.records import Stage
from eda_service.storage.runs.rivals import Rivals
from eda_service.storage.runs.run import RunDir

logger = logging.getLogger(__name__)

_INTERVAL_S = 5.0
_MEASURING = frozenset({Stage.EVALUATE.value, Stage.PUBLISH.value})


class Rivalry:
    """Keeps `rivals.json` of live jobs up to date.

    Args:
        deployments: Service that knows which packs are served.
        packs: Service that knows which packs are published.
        clock: Clock in seconds since the epoch.
    """

    def __init__(
        self, deployments: DeploymentStore, packs: PackService, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._deployments, self._packs, self._clock = deployments, packs, clock
        self._told: dict[str, tuple[float, Rivals]] = {}
        self._best: dict[tuple[str, str], tuple[tuple[int, ...], str | None]] = {}

    def tell(self, job: Job, run: RunDir) -> None:
        """Write the rivals that have changed, at most every few seconds. An error here does not delay the job: without
        a measurement beside the served pack, its own pack does not replace that one.
        """
        if job.stage in _MEASURING:
            self.forget(job.id)
            return
        at, before = self._told.get(job.id, (float("-inf"), None))
        now = self._clock()
        if now - at < _INTERVAL_S:
            return
        try:
            rivals = self.of(job)
            if rivals != before:
                run.write(rivals)
        except (EdaError, OSError, ValueError) as error:
            logger.warning("%s: cannot tell which packs to measure beside: %s", job.id, error)
            return
        self._told[job.id] = now, rivals

    def of(self, job: Job) -> Rivals:
        """Return the packs that a job's own has to beat now; packs of other owners are left out."""
        name = job.adapt_config().public_name
        served = None
        with contextlib.suppress(NotFoundError):
            served = self._deployments.get(name, owner=job.owner).pack
        return Rivals(owner=job.owner, served=served, champion=self._champion(name, job.owner))

    def _champion(self, name: str, owner: str) -> str | None:
        """Find the best version of a pack, again only when there is a new version: published versions do not change."""
        numbers = self._packs.numbers(name)
        known, reference = self._best.get((owner, name), ((), None))
        if known != numbers:
            best = self._packs.best_measured(name, owner)
            reference = None if best is None else best.reference
            self._best[owner, name] = numbers, reference
        return reference

    def forget(self, job_id: str) -> None:
        """Forget a job that is not told of rivals any more."""
        self._told.pop(job_id, None)
