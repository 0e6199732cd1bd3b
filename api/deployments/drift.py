"""Watches whether served packs still fit what they are asked: an event at each crossing, a job where it is wanted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from api.deployments.readaptation import Readaptation
from api.deployments.replicas import ReplicaClient
from api.deployments.schemas import DriftBody
from api.endpoint.metrics.counts import ModelCounts
from api.metrics.acceptance import Window
from api.packs.packs import PackService
from api.troubles import Troubles
from eda_service.config.deployment import DriftConfig
from eda_service.jobstore import Deployment, Drift, JobStore
from eda_service.raycluster.serve_plan import group_of
from eda_service.storage.published.packs import PackEvaluation

logger = logging.getLogger(__name__)

_RISEN_BY = 1.05  # back over the threshold by this much; at the threshold itself noise would cross it all the time


@dataclass(frozen=True)
class Judgement:
    """One look at a served pack.

    Attributes:
        acceptance_length: Over the window; None with too few rounds.
        expected: What the pack's evaluation measured.
    """

    pack: str
    acceptance_length: float | None
    expected: float

    @property
    def ratio(self) -> float | None:
        """Of what was expected."""
        return None if self.acceptance_length is None else self.acceptance_length / self.expected


class DriftWatch:
    """One pass looks at every deployment that has a pack with an evaluation.

    Args:
        store: Deployments and what was seen.
        packs: What they have measured.
        replicas: Say what they have done.
        readaptation: Makes jobs.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        store: JobStore,
        packs: PackService,
        replicas: ReplicaClient,
        readaptation: Readaptation,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._packs, self._replicas, self._clock = store, packs, replicas, clock
        self._readaptation = readaptation
        self._troubles = Troubles(logger)
        self._windows: dict[tuple[str, str], Window] = {}  # by uid of the deployment and pack
        self.judgements: dict[str, Judgement] = {}  # by uid of the deployment

    def run_once(self) -> None:
        """Look at everything."""
        watched = {each.uid: each for each in self._store.deployments.all() if each.pack is not None}
        found = self._replicas.metrics(sorted({group_of(each) for each in watched.values()}))
        self._windows = {key: window for key, window in self._windows.items() if self._is_served(watched, *key)}
        self.judgements = {uid: each for uid, each in self.judgements.items() if uid in watched}
        totals = {
            (variant.uid, variant.pack): variant.counts
            for group in found.values()
            if group is not None
            for variant in group.variants
        }
        for deployment in watched.values():
            with self._troubles.caught(f"judging the acceptance of {deployment.name}"):
                counts = totals.get((deployment.uid, deployment.pack))
                evaluation = self._evaluation(deployment)
                if counts is not None and evaluation is not None:
                    self._judge(deployment, counts, evaluation)
        self._adapt(watched)

    def drift_body(self, deployment: Deployment, drifts: Mapping[str, Drift] | None = None) -> DriftBody:
        """The last look at one deployment; `drifts` are the store's, where they were read for several."""
        drift = (self._store.drifts.all() if drifts is None else drifts).get(deployment.name)
        found = self.judgements.get(deployment.uid)
        seen = found if found is not None and found.pack == deployment.pack else None
        return DriftBody(
            is_below=drift is not None and drift.is_below and drift.pack == deployment.pack,
            acceptance_length=None if seen is None else seen.acceptance_length,
            expected=None if seen is None else seen.expected,
            ratio=None if seen is None else seen.ratio,
            settings=DriftConfig.model_validate(deployment.drift),
        )

    @staticmethod
    def _is_served(watched: dict[str, Deployment], uid: str, pack: str) -> bool:
        return uid in watched and watched[uid].pack == pack

    def _evaluation(self, deployment: Deployment) -> PackEvaluation | None:
        """Of chains: an endpoint drafts no trees, so their lengths say nothing about it."""
        served = self._packs.served(deployment.pack)
        evaluation = None if served is None else served.evaluation
        return None if evaluation is None or evaluation.tree is not None else evaluation

    def _judge(self, deployment: Deployment, counts: ModelCounts, evaluation: PackEvaluation) -> None:
        settings = DriftConfig.model_validate(deployment.drift)
        uid, pack = deployment.uid, deployment.pack or ""
        window = self._windows.setdefault((uid, pack), Window())
        window.add(self._clock(), counts)
        length = window.acceptance_length(
            min_rounds=settings.min_rounds, window_s=settings.window_s, depth=evaluation.num_draft_tokens
        )
        judgement = Judgement(pack, length, evaluation.acceptance_length)
        self.judgements[uid] = judgement
        if judgement.ratio is None or length is None:
            return
        limit = settings.below * judgement.expected
        is_below = length < limit
        if not is_below and length < limit * _RISEN_BY:
            return
        self._store.drifts.record_crossing(
            deployment.name,
            uid,
            pack,
            is_below=is_below,
            message=f"acceptance length {length:.3f} of {pack}, {judgement.ratio:.0%} of the {judgement.expected:.3f} "
            f"that it was published with; the threshold is {settings.below:.0%}",
            data={"pack": pack, "acceptance_length": round(length, 4), "expected": round(judgement.expected, 4)},
        )

    def _adapt(self, watched: dict[str, Deployment]) -> None:
        by_name = {each.name: each for each in watched.values()}
        for drift in self._store.drifts.all().values():
            deployment = by_name.get(drift.name)
            if deployment is None or not drift.is_below or drift.is_handled or deployment.pack != drift.pack:
                continue
            with self._troubles.caught(f"adapting {deployment.name} again"):
                settings = DriftConfig.model_validate(deployment.drift)
                if settings.adapt:
                    self._readaptation.consider(deployment, drift, settings)
