"""Reports of a group's replicas, and their sum: plain values that are sent as JSON.

Counters only grow, also when a replica ends; gauges (running requests, loaded models) are those of the replicas that
are alive. All values are listed by a deployment's uid, because its name may belong to another deployment later. Values
that an older replica reports under a name alone have the uid "", which no deployment has. Nothing here needs torch or
Ray, because the API reads it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from api.endpoint.metrics.counts import ModelCounts

Variant = tuple[str, str | None]  # uid of the deployment, pack


@dataclass
class VariantMetrics:
    """Counts of one deployment under one pack."""

    uid: str = ""
    pack: str | None = None
    counts: ModelCounts = field(default_factory=ModelCounts)
    num_running: int = 0
    num_waiting: int = 0


@dataclass
class LoadedModel:
    """The model that is loaded for a deployment.

    Attributes:
        adapter_bytes: Memory of the adapter in all replicas together, as pack_bytes is for packs; None where no replica
            reports it.
        num_replicas: Number of replicas that have it loaded.
    """

    uid: str = ""
    pack: str | None = None
    base_draft: str | None = None
    adapter_bytes: int | None = None
    pack_bytes: int | None = None
    num_replicas: int = 1


@dataclass
class Report:
    """The report of one replica.

    Attributes:
        replica: Id of the replica, never used again.
        engines: Counts and running requests by id of the engine, which is never used again.
        loaded: Models that new requests get.
        swaps: Number of changes of its pack, by uid of the deployment.
        base_bytes: Memory of the base target.
    """

    replica: str
    engines: dict[str, list[VariantMetrics]]
    loaded: list[LoadedModel]
    swaps: dict[str, int]
    base_bytes: int | None


@dataclass
class GroupMetrics:
    """The sum of a group."""

    variants: list[VariantMetrics] = field(default_factory=list)
    loaded: list[LoadedModel] = field(default_factory=list)
    swaps: dict[str, int] = field(default_factory=dict)
    base_bytes: int | None = None
    num_replicas: int = 0


GROUP_METRICS = TypeAdapter(GroupMetrics)


def add_counts(totals: Mapping[Variant, ModelCounts], found: Iterable[VariantMetrics]) -> dict[Variant, ModelCounts]:
    """Return `totals` plus the counts of `found`, by uid and pack."""
    sums = dict(totals)
    for each in found:
        key = each.uid, each.pack
        sums[key] = sums.get(key, ModelCounts()) + each.counts
    return sums


def add_numbers(one: int | None, other: int | None) -> int | None:
    """Add two numbers, of which None is unknown."""
    return other if one is None else one + (other or 0)


def add_loaded(reports: Iterable[Report]) -> list[LoadedModel]:
    """List the models loaded in all replicas, by uid and pack."""
    sums: dict[tuple[str, str | None, str | None], LoadedModel] = {}
    for each in (model for report in reports for model in report.loaded):
        known = sums.get((each.uid, each.pack, each.base_draft))
        sums[each.uid, each.pack, each.base_draft] = LoadedModel(
            each.uid,
            each.pack,
            each.base_draft,
            add_numbers(each.adapter_bytes, None if known is None else known.adapter_bytes),
            add_numbers(each.pack_bytes, None if known is None else known.pack_bytes),
            1 if known is None else known.num_replicas + 1,
        )
    return list(sums.values())
