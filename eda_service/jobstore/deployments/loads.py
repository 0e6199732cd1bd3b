"""The state of loading deployments. Several API processes may watch the same replicas: the first one that sees an
attempt fail records it, with its event, so an attempt counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from eda_service.errors import ConflictError
from eda_service.jobstore import rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.deployments.deployment import Content, Load
from eda_service.jobstore.deployments.deployments import find, start_anew
from eda_service.jobstore.deployments.drift import add_deployment_event
from eda_service.jobstore.locks import Space, lock
from eda_service.jobstore.models import DeploymentRow, LoadRow


class LoadLog(Part):
    """Attempts to load deployments."""

    def all(self) -> dict[str, Load]:
        """Return the state of every deployment that has ever failed to load, by name."""
        with self._read() as session:
            return {each.name: each for each in self._reader.read_all(Load, session.scalars(select(LoadRow)))}

    def record_failure(
        self,
        name: str,
        uid: str,
        attempt: int,
        *,
        reason: str,
        message: str,
        data: Mapping[str, Any],
        retry_in_s: int | None,
        serves: Content | None,
    ) -> bool:
        """Record that an attempt has failed; return False if that was known, or another attempt counts by now.

        Args:
            name: Name of the deployment.
            uid: Id of the deployment; a name that was made again is another deployment.
            attempt: Number of the attempt.
            reason: Reason of the failure.
            message: Message of the event.
            data: Data of the event.
            retry_in_s: Seconds until the next attempt begins; None: it does not begin by itself.
            serves: Content that is served meanwhile; None: nothing is served.
        """
        with self._write.begin() as session:
            row = _current(session, name, uid, attempt)
            if row is None or row.reason is not None:
                return False
            now = self._now()
            row.num_failures, row.reason, row.failed_at = row.num_failures + 1, rows.clean_text(reason), now
            row.retry_at = None if retry_in_s is None else now + retry_in_s
            row.serves = None if serves is None else serves.model_dump(mode="json")
            level = "error" if retry_in_s is None else "warning"
            add_deployment_event(session, name, now, "load_failed", message, level, data)
            return True

    def begin_next(self, name: str, uid: str, attempt: int) -> bool:
        """Begin the attempt after a failed one whose time has come; return False if another process has done so."""
        with self._write.begin() as session:
            row = _current(session, name, uid, attempt)
            if row is None or row.retry_at is None or row.retry_at > self._now():
                return False
            row.attempt, row.reason, row.retry_at = attempt + 1, None, None
            return True

    def record_loaded(self, name: str, uid: str, attempt: int) -> bool:
        """Record that an attempt after failures has succeeded; return False if that was known."""
        with self._write.begin() as session:
            row = _current(session, name, uid, attempt)
            if row is None or row.num_failures == 0:
                return False
            message = f"it is loaded now, after {row.num_failures} failed attempts"
            row.num_failures, row.reason, row.retry_at, row.serves = 0, None, None, None
            add_deployment_event(session, name, self._now(), "loaded", message, "info", {"attempt": attempt})
            return True

    def restart(self, name: str, *, owner: str | None, made_by: str) -> None:
        """Restart the loading of a deployment that did not load.

        Raises:
            NotFoundError: The owner has no such deployment.
            ConflictError: The deployment has not failed.
        """
        with self._write.begin() as session:
            lock(session, Space.DEPLOYMENT, name)
            row = find(session, name, owner)
            load = session.get(LoadRow, row.name)
            if load is None or load.reason is None:
                raise ConflictError(f"deployment {name} has not failed to load; there is nothing to start again")
            start_anew(session, row.name)
            message = f"started again by {rows.clean_text(made_by, 64)}"
            add_deployment_event(session, row.name, self._now(), "restarted", message, "info", {})


def _current(session: Session, name: str, uid: str, attempt: int) -> LoadRow | None:
    """Return the row of a deployment, made if there is none; None if the deployment or the attempt is another one by
    now.
    """
    lock(session, Space.DEPLOYMENT, name)
    deployment = session.get(DeploymentRow, name)
    if deployment is None or deployment.uid != uid:
        return None
    row = session.get(LoadRow, name)
    if row is None:
        row = LoadRow(name=name, attempt=0, num_failures=0)
        if attempt == 0:
            session.add(row)
            session.flush()
    return row if row.attempt == attempt else None
