"""Drift of served packs, and the events of deployments.

Several API processes may watch the same deployments: the first one that sees a crossing of the threshold records it,
with its event.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from eda_service.jobstore import rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.deployments.deployment import DeploymentEvent, Drift
from eda_service.jobstore.deployments.deployments import find
from eda_service.jobstore.locks import Space, lock
from eda_service.jobstore.models import DeploymentEventRow, DeploymentRow, DriftRow


class DriftLog(Part):
    """Crossings of the threshold and events."""

    def record_crossing(
        self, name: str, uid: str, pack: str, *, is_below: bool, message: str, data: Mapping[str, Any]
    ) -> bool:
        """Record that acceptance has fallen or risen. Return False if that was known, if the deployment has another
        pack, or if the name belongs to another deployment by now.
        """
        with self._write.begin() as session:
            lock(session, Space.DEPLOYMENT, name)
            deployment = session.get(DeploymentRow, name)
            row = session.get(DriftRow, name)
            was_below = row is not None and row.pack == pack and row.is_below
            if deployment is None or deployment.uid != uid or deployment.pack != pack or was_below == is_below:
                return False
            if row is None:
                row = DriftRow(name=name)
                session.add(row)
            row.pack, row.is_below, row.crossed_at, row.is_handled = pack, is_below, self._now(), False
            kind, level = ("acceptance_drift", "warning") if is_below else ("acceptance_recovered", "info")
            add_deployment_event(session, name, self._now(), kind, message, level, data)
            return True

    def record_handled(
        self, name: str, uid: str, kind: str, message: str, data: Mapping[str, Any], *, is_job: bool
    ) -> bool:
        """Record the reaction to a fall, once; return False if another process has done so, or the
        deployment is gone.
        """
        with self._write.begin() as session:
            lock(session, Space.DEPLOYMENT, name)
            deployment = session.get(DeploymentRow, name)
            row = session.get(DriftRow, name)
            if deployment is None or deployment.uid != uid or row is None or not row.is_below or row.is_handled:
                return False
            row.is_handled = True
            row.adapted_at = self._now() if is_job else row.adapted_at
            add_deployment_event(session, name, self._now(), kind, message, "info" if is_job else "warning", data)
            return True

    def all(self) -> dict[str, Drift]:
        """Return the drift of every deployment whose acceptance has ever fallen, by name."""
        with self._read() as session:
            return {each.name: each for each in self._reader.read_all(Drift, session.scalars(select(DriftRow)))}

    def num_events(self) -> dict[str, int]:
        """Return how often each deployment's acceptance has fallen, by its uid."""
        fallen = DeploymentEventRow.type == "acceptance_drift"
        query = select(DeploymentRow.uid, func.count()).join(
            DeploymentEventRow, DeploymentEventRow.name == DeploymentRow.name
        )
        with self._read() as session:
            return {
                uid: int(number) for uid, number in session.execute(query.where(fallen).group_by(DeploymentRow.uid))
            }

    def events(
        self, name: str, *, owner: str | None = None, before: int = 0, limit: int = 100
    ) -> tuple[list[DeploymentEvent], bool]:
        """List a deployment's events with an id below `before` (0: all), newest first, and return whether there are
        more.

        Raises:
            NotFoundError: The owner has no such deployment.
        """
        with self._read() as session:
            row = find(session, name, owner)
            query = select(DeploymentEventRow).where(DeploymentEventRow.name == row.name)
            if before:
                query = query.where(DeploymentEventRow.id < before)
            found = session.scalars(query.order_by(DeploymentEventRow.id.desc()).limit(limit + 1)).all()
            return [self._reader.reduced(DeploymentEvent, each) for each in found[:limit]], len(found) > limit


def add_deployment_event(
    session: Session, name: str, now: int, kind: str, message: str, level: str, data: Mapping[str, Any]
) -> None:
    """Add an event of a deployment, in the transaction of the change that it reports."""
    session.add(
        DeploymentEventRow(name=name, at=now, level=level, type=kind, message=rows.clean_text(message), data=dict(data))
    )
