"""What happens to a machine in `tests.resilience.nodes`, and how it comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Fault:
    """One case.

    Attributes:
        how: `kill` or `cut`.
        stage: Of the job, or `serve`.
        role: Whose machine, of cluster.ROLES.
    """

    how: str
    stage: str
    role: str

    @property
    def name(self) -> str:
        """Of the case."""
        return f"{self.how}-{self.role}-{self.stage}"


def strike(cluster: Any, fault: Fault) -> int | None:
    """Kill or cut a machine with a process of the role, the driver's only if that is asked for; returns which."""
    drivers = set(cluster.where("driver"))
    found = [number for number in cluster.where(fault.role) if fault.role == "driver" or number not in drivers]
    if not found:
        return None
    if fault.how == "kill":
        cluster.kill(found[0])
    else:
        cluster.network.cut(found[0])
    return found[0]


def heal(cluster: Any, number: int, *, killed: bool) -> float:
    """Put the machine back and wait until it is a node again; returns how long that took."""
    if killed:
        cluster.join(number)
    else:
        cluster.network.mend(number)
    waited: float = cluster.wait_joined([number])
    return waited
