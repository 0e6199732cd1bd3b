"""The deployments that Serve must offer, their history, and the pinned champion of each pack.

A change is based on a revision that was read: it names that revision and is refused if there is a newer one. So a
caller that decides (for example by measurements of packs) holds no lock while deciding.
"""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from eda_service.errors import ConflictError, NotFoundError, StaleDeploymentError
from eda_service.ids import new_deployment_uid
from eda_service.jobstore import rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.deployments.deployment import SERVED, Content, Deployment, Revision
from eda_service.jobstore.locks import Space, lock
from eda_service.jobstore.models import ChampionRow, DeploymentEventRow, DeploymentRow, DriftRow, LoadRow, RevisionRow

_CHANGED = (*SERVED, "min_replicas", "max_replicas", "round_ms")


class DeploymentStore(Part):
    """Deployments with their revisions, and pinned champions."""

    def put(self, deployment: Deployment, *, made_by: str, reason: str) -> Deployment:
        """Make a deployment, or change the one of that name.

        Args:
            deployment: Wanted state; its `revision` is the one that the caller has read, 0 for none.
            made_by: Owner of the key that asked, or the job.
            reason: Reason of the change, for the history.

        Raises:
            StaleDeploymentError: The deployment has another revision by now.
        """
        with self._write.begin() as session:
            row = write(session, deployment, self._now(), made_by=made_by, reason=reason)
            return Deployment.model_validate(row)

    def delete(self, name: str, *, owner: str | None = None) -> Deployment:
        """Delete a deployment and its history; return its last state.

        Raises:
            NotFoundError: The owner has no such deployment.
        """
        with self._write.begin() as session:
            lock(session, Space.DEPLOYMENT, name)
            row = find(session, name, owner)
            gone = self._reader.reduced(Deployment, row)
            for kind in (RevisionRow, DriftRow, LoadRow, DeploymentEventRow):
                session.execute(delete(kind).where(kind.name == row.name))
            session.delete(row)
            return gone

    def all(self, *, owner: str | None = None, unreadable: bool = False) -> list[Deployment]:
        """List the deployments that Serve must offer, of all owners or of one, by name.

        Args:
            owner: Owner of the deployments; None: all owners.
            unreadable: Whether to include rows that cannot be read, with their readable part: to be shown, not to be
                served.
        """
        query = select(DeploymentRow).order_by(DeploymentRow.name)
        if owner is not None:
            query = query.where(DeploymentRow.owner == owner)
        with self._read() as session:
            found = session.scalars(query).all()
            if unreadable:
                return [self._reader.reduced(Deployment, row) for row in found]
            return self._reader.read_all(Deployment, found)

    def get(self, name: str, *, owner: str | None = None) -> Deployment:
        """Return one deployment; of an unreadable row the readable part, and `unreadable` names the missing fields.

        Raises:
            NotFoundError: The owner has no such deployment.
        """
        with self._read() as session:
            return self._reader.reduced(Deployment, find(session, name, owner))

    def revisions(self, name: str, *, owner: str | None = None, limit: int = 100) -> list[Revision]:
        """List a deployment's history, newest first.

        Raises:
            NotFoundError: The owner has no such deployment.
        """
        with self._read() as session:
            row = find(session, name, owner)
            query = select(RevisionRow).where(RevisionRow.name == row.name).order_by(RevisionRow.revision.desc())
            return self._reader.read_all(Revision, session.scalars(query.limit(limit)))

    def pin_champion(self, owner: str, name: str, version: int | None) -> None:
        """Pin the version of a pack that an owner's `name@champion` means; None: the best measured one again."""
        with self._write.begin() as session:
            lock(session, Space.CHAMPION, f"{owner}/{name}")
            if version is None:
                session.execute(delete(ChampionRow).where(ChampionRow.owner == owner, ChampionRow.name == name))
            else:
                session.merge(ChampionRow(owner=owner, name=name, version=version, pinned_at=self._now()))

    def pinned_champion(self, owner: str, name: str) -> int | None:
        """Return the version that the owner has pinned, if any."""
        with self._read() as session:
            row = session.get(ChampionRow, (owner, name))
            return row.version if row is not None and isinstance(row.version, int) else None

    def pinned_by(self, name: str, version: int) -> list[str]:
        """List the owners who have pinned a version of a pack."""
        query = select(ChampionRow.owner).where(ChampionRow.name == name, ChampionRow.version == version)
        with self._read() as session:
            return list(session.scalars(query.order_by(ChampionRow.owner)))


def write(session: Session, deployment: Deployment, now: int, *, made_by: str, reason: str) -> DeploymentRow:
    """Insert or change a deployment inside the caller's transaction, with its revision.

    Raises:
        ConflictError: The deployment was made from a row that cannot be read: placeholders must not be stored.
        StaleDeploymentError: The stored revision is not the one that `get` was made from.
    """
    if deployment.unreadable is not None:
        raise ConflictError(
            f"the row of deployment {deployment.name} cannot be read ({deployment.unreadable}); "
            "delete the deployment and make it again",
            param="name",
        )
    lock(session, Space.DEPLOYMENT, deployment.name)
    row = session.get(DeploymentRow, deployment.name)
    stored = 0 if row is None else row.revision
    if stored != deployment.revision:
        raise StaleDeploymentError(
            f"deployment {deployment.name} has revision {stored}, the change was made from {deployment.revision}; "
            "read it again",
            param="revision",
        )
    fields = deployment.model_dump(exclude={"revision", "created_at", "updated_at"})
    if row is None:
        fields["uid"] = new_deployment_uid(now)
        row = DeploymentRow(**fields, revision=1, created_at=now, updated_at=now)
        session.add(row)
        session.flush()  # its revision's foreign key needs it
    else:
        if any(getattr(row, name) != fields[name] for name in Content.model_fields):
            start_anew(session, row.name)  # failures of the earlier content do not count for the new one
        for name, value in fields.items():
            if name != "uid":  # the uid stays for the deployment's life
                setattr(row, name, value)
        row.revision, row.updated_at = stored + 1, now
    session.add(
        RevisionRow(
            name=row.name,
            revision=row.revision,
            made_by=rows.clean_text(made_by, 64),
            reason=rows.clean_text(reason),
            created_at=now,
            **{name: fields[name] for name in _CHANGED},
        )
    )
    session.flush()
    return row


def start_anew(session: Session, name: str) -> None:
    """Reset the loading of a deployment that did not load, inside the caller's transaction."""
    load = session.get(LoadRow, name)
    if load is not None:
        load.attempt += 1
        load.num_failures, load.reason, load.retry_at, load.serves = 0, None, None, None


def find(session: Session, name: str, owner: str | None) -> DeploymentRow:
    """Find a deployment's row.

    Raises:
        NotFoundError: The owner has no such deployment.
    """
    query = select(DeploymentRow).where(DeploymentRow.name == rows.clean_text(name))
    if owner is not None:
        query = query.where(DeploymentRow.owner == owner)
    row = session.scalars(query).first()
    if row is None:
        raise NotFoundError(f"no deployment {name[:96]!r}; list the deployments to find its name", param="name")
    return row
