"""Answers `/metrics`: counters of this process, numbers from the database, and the sum of each group's replicas."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, generate_latest

from api.auth import Caller
from api.deployments.drift import DriftWatch
from api.deployments.replicas import ReplicaClient
from api.gateway.directory import Directory
from api.metrics.exposition import DriftCollector, JobCollector, ServingCollector, WebhookCollector
from api.metrics.instruments import Instruments
from api.metrics.throughput import Reading, read_variants
from api.settings import Settings
from eda_service.jobstore import Deployment, JobStore
from eda_service.raycluster.serve_plan import group_of

_MAX_DUE = 1000


class Metrics:
    """Collects all metrics anew for each scrape.

    Args:
        store: Rows of jobs and webhooks.
        directory: Directory that says which callers see which names.
        instruments: Counters of this process.
        settings: Settings with the address of Serve, if Serve runs.
        drift: Watch of acceptance.
    """

    def __init__(
        self,
        store: JobStore,
        directory: Directory,
        instruments: Instruments,
        settings: Settings,
        drift: DriftWatch,
    ) -> None:
        self._drift = drift
        self._store, self._directory, self._instruments = store, directory, instruments
        self._replicas, self._serves = ReplicaClient(settings.serve_url), settings.serve

    def close(self) -> None:
        """Close the connections."""
        self._replicas.close()

    def reading(self, deployment: Deployment) -> Reading | None:
        """Read the totals of a deployment, all replicas and packs together; None when no replica answers."""
        key = group_of(deployment)
        found = self._replicas.metrics([key])[key] if self._serves else None
        return None if found is None else read_variants(deployment.uid, found.variants)

    def readings(self, deployments: Sequence[Deployment]) -> dict[str, Reading]:
        """Read the totals of many deployments, by uid, asking each group once; those without an answer are left out."""
        groups = {each.uid: group_of(each) for each in deployments} if self._serves else {}
        found = self._replicas.metrics(sorted(set(groups.values())))
        return {
            uid: read_variants(uid, group.variants) for uid, key in groups.items() if (group := found[key]) is not None
        }

    def text(self, caller: Caller) -> bytes:
        """Write Prometheus text with the series of the deployments and jobs that the caller sees; series of the whole
        service are for admins only, as they show the activity of all owners.
        """
        deployments = self._directory.deployments(caller)
        names = {each.uid: each.name for each in deployments}
        groups = sorted({group_of(each) for each in deployments}) if self._serves else []
        registry = CollectorRegistry()
        registry.register(ServingCollector(self._replicas.metrics(groups), names))
        registry.register(DriftCollector(self._drift.judgements, self._store.drifts.num_events(), names))
        registry.register(JobCollector(self._store.jobs.counts(owner=caller.sees)))
        if caller.sees is not None:
            return generate_latest(registry)
        registry.register(WebhookCollector(self._store.outbox.num_due(_MAX_DUE)))
        return generate_latest(self._instruments.registry) + generate_latest(registry)
