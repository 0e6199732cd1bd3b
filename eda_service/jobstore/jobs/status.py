"""States of a job, and the table of legal transitions between them."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from eda_service.errors import ConflictError


class Status(StrEnum):
    """The state of a job; its current stage is a separate field."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


# running -> queued is a lost attempt that is tried again; failed or cancelled -> queued is a retry that a user asked
# for; cancelling -> succeeded or failed is a job that ended by itself before the stop reached it.
LEGAL: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.FAILED, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLING, Status.QUEUED}),
    Status.CANCELLING: frozenset({Status.CANCELLED, Status.SUCCEEDED, Status.FAILED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset({Status.QUEUED}),
}

LIVE: frozenset[Status] = frozenset({Status.QUEUED, Status.RUNNING, Status.CANCELLING})
TERMINAL: frozenset[Status] = frozenset(Status) - LIVE


def require_legal(
    job_id: str, source: Status, destination: Status, *, only_from: Collection[Status] | None = None
) -> None:
    """Check one transition against the table, and against the states that the caller means to leave.

    Raises:
        ConflictError: The table has no such transition, or `source` is not in `only_from`.
    """
    if only_from is not None and source not in only_from:
        wanted = " or ".join(sorted(each.value for each in only_from))
        raise ConflictError(f"job {job_id} is {source.value}; only a job that is {wanted} can do this", param="status")
    if destination not in LEGAL[source]:
        moves = ", ".join(sorted(LEGAL[source])) or "none"
        raise ConflictError(
            f"job {job_id} is {source.value} and cannot become {destination.value}; possible moves: {moves}",
            param="status",
        )
