"""What a cluster has of what its scheduler counts, and what a job asks it for at a time."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Machines:
    """The nodes of a cluster.

    Attributes:
        total: Of all together.
        node_gpus: Of the node that has most.
        kinds: What Ray calls their GPUs; empty: it has none, or does not know all of them.
    """

    total: Capacity
    node_gpus: int = 0
    kinds: frozenset[str] = frozenset()


UNKNOWN = Capacity(cpus=0.0, gpus=0)
"""The need of a job of which nobody has said it: it counts as one that fits every cluster."""
