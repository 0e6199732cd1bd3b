"""What a cluster has of what its scheduler counts, and what a job asks it for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TOLERANCE = 1e-6
"""Of logical CPUs, which are sums of fractions."""


@dataclass(frozen=True)
class Capacity:
    """Logical CPUs and GPUs.

    Attributes:
        cpus: Logical ones, as Ray counts them.
        gpus: Whole ones.
    """

    cpus: float
    gpus: int

    def holds(self, need: Capacity) -> bool:
        """Whether that much could be had, if nothing else ran."""
        return need.cpus <= self.cpus + TOLERANCE and need.gpus <= self.gpus

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU{'s' * (self.cpus != 1)} and {self.gpus} GPU{'s' * (self.gpus != 1)}"


NOTHING = Capacity(cpus=0.0, gpus=0)


@dataclass(frozen=True)
class Need:
    """What a job asks for.

    Attributes:
        at_once: The most that it holds at a time before it can go on.
        of_one_node: Of that, what the largest of its processes takes of one node.
    """

    at_once: Capacity
    of_one_node: Capacity = NOTHING


UNKNOWN = Need(NOTHING)
"""The need of a job of which nobody has said it: it counts as one that fits every cluster."""


@dataclass(frozen=True)
class Machines:
    """The nodes of a cluster.

    Attributes:
        total: Of all together.
        largest: Of single nodes those that no other one exceeds; empty: not known, and every node is large enough.
        kinds: What Ray calls their GPUs; empty: it has none, or does not know all of them.
    """

    total: Capacity
    largest: tuple[Capacity, ...] = ()
    kinds: frozenset[str] = frozenset()

    @property
    def node_gpus(self) -> int:
        """Of the node that has most."""
        return max((node.gpus for node in self.largest), default=0)

    def lack(self, need: Need) -> str | None:
        """Why a job waits for ever on these nodes, as the rest of a sentence about it; None: it does not."""
        if not self.total.holds(need.at_once):
            return f"asks for {need.at_once} at a time and the cluster has {self.total}"
        if not self.has_node_for(need.of_one_node):
            nodes = " or ".join(map(str, self.largest))
            return f"has a process that asks for {need.of_one_node} of one node, and no node has more than {nodes}"
        return None

    def has_node_for(self, process: Capacity) -> bool:
        """Whether a process could be on one of the nodes, if nothing else ran."""
        return not self.largest or any(node.holds(process) for node in self.largest)


def largest_of(nodes: Iterable[Capacity]) -> tuple[Capacity, ...]:
    """Those of some nodes that no other one exceeds, the one with most GPUs first."""
    found: list[Capacity] = []
    for node in sorted(set(nodes), key=lambda each: (each.gpus, each.cpus), reverse=True):
        if not any(other.holds(node) for other in found):
            found.append(node)
    return tuple(found)
