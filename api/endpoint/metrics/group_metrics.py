"""What the replicas of a group tell about themselves, and its sum: plain values that travel as JSON.

Counters only grow, also when a replica goes; gauges (what is running, what is loaded) are those of the replicas that
are there. All of it is said by the uid of a deployment: a name may be another's tomorrow. What an older replica says
under a name alone has the uid "", which no deployment has. Nothing here needs torch or Ray: the API reads it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter

from api.endpoint.metrics.counts import ModelCounts

Variant = tuple[str, str | None]  # uid of the deployment, pack


@dataclass
class VariantMetrics:
    """One deployment under one pack."""

    uid: str = ""
    pack: str | None = None
    counts: ModelCounts = field(default_factory=ModelCounts)
    num_running: int = 0
    num_waiting: int = 0


@dataclass
class LoadedModel:
    """What answers for a deployment.

    Attributes:
        adapter_bytes: In all replicas together, as are pack_bytes; None where none says.
        num_replicas: How many have it.
    """

    uid: str = ""
    pack: str | None = None
    base_draft: str | None = None
    adapter_bytes: int | None = None
    pack_bytes: int | None = None
    num_replicas: int = 1


@dataclass
class Report:
    """What one replica tells.

    Attributes:
        replica: Its id, never used again.
        engines: By id of the engine, never used again: what it has done and does.
        loaded: What requests get now.
        swaps: By uid of the deployment: changes of its pack.
        base_bytes: The base target's memory.
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
    """`totals` with the counts of `found`, by uid and pack."""
    sums = dict(totals)
    for each in found:
        key = each.uid, each.pack
        sums[key] = sums.get(key, ModelCounts()) + each.counts
    return sums


def add_numbers(one: int | None, other: int | None) -> int | None:
    """The sum of what is known."""
    return other if one is None else one + (other or 0)


def add_loaded(reports: Iterable[Report]) -> list[LoadedModel]:
    """What is loaded in all replicas, by uid and pack."""
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
