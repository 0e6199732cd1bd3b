"""Capacity of a cluster and need of a job, in the units that the cluster's scheduler counts: CPUs and GPUs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TOLERANCE = 1e-6
"""Tolerance in logical CPUs, which are sums of fractions."""


@dataclass(frozen=True)
class Capacity:
    """Logical CPUs and GPUs.

    Attributes:
        cpus: Logical CPUs, as Ray counts them.
        gpus: Whole GPUs.
    """

    cpus: float
    gpus: int

    def holds(self, need: Capacity) -> bool:
        """Whether this capacity is at least `need` when nothing else runs."""
        return need.cpus <= self.cpus + TOLERANCE and need.gpus <= self.gpus

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU{'s' * (self.cpus != 1)} and {self.gpus} GPU{'s' * (self.gpus != 1)}"


NOTHING = Capacity(cpus=0.0, gpus=0)


@dataclass(frozen=True)
class Need:
    """Capacity that a job asks for.

    Attributes:
        at_once: Largest capacity that the job must hold at the same time.
        of_one_node: Largest capacity that a single process of the job takes on its node.
    """

    at_once: Capacity
    of_one_node: Capacity = NOTHING


UNKNOWN = Need(NOTHING)
"""The need of a job that did not state one; it fits every cluster."""


@dataclass(frozen=True)
class Machines:
    """The nodes of a cluster.

    Attributes:
        total: Capacity of all nodes together.
        largest: Capacities of single nodes that no other node exceeds; empty: unknown, and every node is large enough.
        kinds: Ray's names of the cluster's GPU types; empty: no GPUs, or not all types are known.
    """

    total: Capacity
    largest: tuple[Capacity, ...] = ()
    kinds: frozenset[str] = frozenset()

    @property
    def node_gpus(self) -> int:
        """Number of GPUs of the node that has most."""
        return max((node.gpus for node in self.largest), default=0)

    def lack(self, need: Need) -> str | None:
        """Return why a job could never start on these nodes, as the rest of a sentence; None: it can start."""
        if not self.total.holds(need.at_once):
            return f"asks for {need.at_once} at a time and the cluster has {self.total}"
        if not self.has_node_for(need.of_one_node):
            nodes = " or ".join(map(str, self.largest))
            return f"has a process that asks for {need.of_one_node} of one node, and no node has more than {nodes}"
        return None

    def has_node_for(self, process: Capacity) -> bool:
        """Whether a process fits on one of the nodes when nothing else runs."""
        return not self.largest or any(node.holds(process) for node in self.largest)


def largest_of(nodes: Iterable[Capacity]) -> tuple[Capacity, ...]:
    """Return the capacities that no other one exceeds, the one with most GPUs first."""
    found: list[Capacity] = []
    for node in sorted(set(nodes), key=lambda each: (each.gpus, each.cpus), reverse=True):
        if not any(other.holds(node) for other in found):
            found.append(node)
    return tuple(found)
