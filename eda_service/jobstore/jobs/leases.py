"""Leases: the next job to run, and the dispatcher that is responsible for each job.

A lease names the dispatcher that changes a job's state. Its token is a fencing token (Kleppmann, "How to do distributed
locking"): it grows whenever the job gets another holder, and a write with an older one is refused. So a dispatcher that
was suspended beyond its lease cannot undo its successor's changes. Safety depends on tokens only; clocks that differ
between machines only make a lease change its holder too early or too late.
"""

from __future__ import annotations

import math
from contextlib import suppress

from sqlalchemy import ColumnElement, and_, func, not_, or_, select, true, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from eda_service.capacity import TOLERANCE, Capacity, Machines, Need
from eda_service.errors import ArtifactCorruptError
from eda_service.jobstore import outbox, rows
from eda_service.jobstore.database import Part
from eda_service.jobstore.jobs.job import Job
from eda_service.jobstore.jobs.status import Status
from eda_service.jobstore.locks import Space, lock
from eda_service.jobstore.models import EventRow, JobRow
from eda_service.jobstore.row import END_OF_TIME

OCCUPYING = (Status.RUNNING.value, Status.CANCELLING.value)
WAITING_FOR_RESOURCES = "waiting_for_resources"
"""Type of the event of a job that the cluster is too small for."""


class Leases(Part):
    """Claims queued jobs and holds running ones."""

    def claim(
        self,
        *,
        max_running: int,
        holder: str = "dispatcher",
        lease_s: float = 30.0,
        max_running_per_owner: int | None = None,
        cluster: Machines | None = None,
        cluster_grows: bool = False,
    ) -> Job | None:
        """Move the next queued job to running as its next attempt, and lease it.

        A job that needs more than the whole cluster has, or more of one node than any has, stays queued and does not
        block the jobs behind it. For a cluster that grows by demand one such job at a time is started, to wait in Ray,
        where the demand is seen; it blocks no other job either.

        Args:
            max_running: Largest number of jobs on the cluster (running or being cancelled) at the same time.
            holder: Name of the dispatcher that takes the lease.
            lease_s: Seconds that the lease lasts unless `hold` renews it.
            max_running_per_owner: Largest number of jobs of one owner at the same time; None: no limit.
            cluster: Nodes of the cluster; None: unknown, and every job counts as fitting.
            cluster_grows: Whether nodes are added on demand.

        Returns:
            The oldest job of the highest priority that may start; None if there is none.
        """
        with self._write.begin() as session:
            lock(session, Space.CLAIM)
            room = _room(session, max_running, max_running_per_owner, cluster, grows=cluster_grows)
            row = None if room is None else self._next_readable(session, room)
            if row is None:
                return None
            row.status, row.attempt = Status.RUNNING.value, row.attempt + 1
            row.submitted_at, row.ray_session, row.started_at = None, None, row.started_at or self._now()
            row.waits_for = None
            row.lease_holder, row.lease_token = holder, row.lease_token + 1
            row.lease_until = self._lease_end(lease_s)
            rows.add_event(session, row, self._now(), "attempt_started", f"attempt {row.attempt} of {row.max_attempts}")
            session.flush()
            return Job.model_validate(row)

    def hold(self, *, holder: str, lease_s: float) -> list[Job]:
        """Renew this holder's leases, take those that are free or have expired, and return all their jobs.

        Args:
            holder: Name of the dispatcher that will be responsible for the jobs.
            lease_s: Seconds that the leases last from now on.

        Returns:
            Running and cancelling jobs, oldest first, without those of another live holder and without one that another
            process is writing now: the next call returns it.
        """
        query = select(JobRow).where(JobRow.status.in_(OCCUPYING), self._free_to(holder)).order_by(JobRow.seq)
        with self._write.begin() as session:
            locked = session.scalars(query.with_for_update(skip_locked=True, key_share=True)).all()
            found = [row for row in locked if self._reader.read(Job, row) is not None]
            for row in found:
                row.lease_token += row.lease_holder != holder
                row.lease_holder, row.lease_until = holder, self._lease_end(lease_s)
            session.flush()
            return self._reader.read_all(Job, found)

    def end_unreadable(self, *, holder: str, everything: bool = False) -> list[str]:
        """End the jobs whose rows cannot be read as failed, so that none of them blocks a place forever.

        Args:
            holder: Name of the dispatcher; jobs of another live one, which may be of a newer version, are left to it.
            everything: Whether to include queued jobs, and those with an unknown status. `claim` ends a queued one that
                it meets, but does not see the others.

        Returns:
            Submission ids under which Ray may still run attempts of jobs that were ended.
        """
        look = and_(JobRow.status.in_(OCCUPYING), self._free_to(holder))
        if everything:
            look = or_(look, JobRow.status == Status.QUEUED.value, JobRow.status.not_in(list(Status)))
        with self._read() as session:
            bad = [row.seq for row in session.scalars(select(JobRow).where(look)) if not self._reader.read(Job, row)]
        if not bad:
            return []
        with self._write.begin() as session:
            found = session.scalars(select(JobRow).where(JobRow.seq.in_(bad), look).with_for_update(key_share=True))
            return [name for row in found if (name := self._end(session, row)) is not None]

    def _next_readable(self, session: Session, room: ColumnElement[bool]) -> JobRow | None:
        """Return the next job of the queue that may start; one that cannot be read is ended on the way."""
        while (row := _next(session, self._now(), room)) is not None:
            if self._reader.read(Job, row) is not None:
                return row
            self._end(session, row)
        return None

    def _end(self, session: Session, row: JobRow) -> str | None:
        """End a job as failed without using any column that may be damaged; return Ray's submission id
        of its attempt.
        """
        reduced = self._reader.reduced(Job, row)
        if reduced.unreadable is None:
            return None
        message = f"its row cannot be read any more: {reduced.unreadable}"
        error = {"code": ArtifactCorruptError.code, "message": message, "param": None, "retryable": False}
        row.status, row.finished_at, row.error = Status.FAILED.value, self._now(), error
        row.lease_holder, row.lease_until = None, 0
        session.flush()
        with suppress(SQLAlchemyError), session.begin_nested():  # if the id is damaged, no event can name it
            told = rows.add_event(session, row, self._now(), "job_failed", f"{error['code']}: {message}", level="error")
            outbox.enqueue(session, row, told, self._now())
            session.flush()
        return reduced.ray_submission_id

    def _free_to(self, holder: str) -> ColumnElement[bool]:
        """Make the condition on jobs whose lease a holder has or may take, or whose lease ends at an
        impossible time.
        """
        ends = or_(JobRow.lease_until <= self._now(), JobRow.lease_until > END_OF_TIME)  # text is largest in SQLite
        return or_(JobRow.lease_holder == holder, JobRow.lease_holder.is_(None), ends)

    def tell_misfits(self, cluster: Machines) -> list[str]:
        """Store, in the row of each live job that the cluster is too small for, why it does not start, and add an event
        that says so unless it has one.

        Args:
            cluster: Nodes of the cluster.

        Returns:
            Ids of the jobs that got an event now.
        """
        live = JobRow.status.in_((Status.QUEUED.value, Status.RUNNING.value))
        query = select(JobRow).where(live, or_(not_(_fits(cluster)), JobRow.waits_for.is_not(None)))
        with self._read() as session:
            jobs = self._reader.read_all(Job, session.scalars(query))
        found = [job.id for job in jobs if job.waits_for != _waits_for(job, cluster)]
        if not found:
            return []
        with self._write.begin() as session:
            again = select(JobRow).where(JobRow.id.in_(found), live).with_for_update(skip_locked=True, key_share=True)
            return [row.id for row in session.scalars(again).all() if self._tell(session, row, cluster)]

    def _tell(self, session: Session, row: JobRow, cluster: Machines) -> bool:
        """Store what a job waits for in its row; return whether that made an event."""
        job = self._reader.read(Job, row)
        if job is None:
            return False
        row.waits_for = _waits_for(job, cluster)
        told = select(EventRow.id).where(EventRow.job_id == row.id, EventRow.type == WAITING_FOR_RESOURCES).limit(1)
        if row.waits_for is None or session.scalar(told) is not None:
            return False
        rows.add_event(session, row, self._now(), WAITING_FOR_RESOURCES, row.waits_for, level="warning")
        return True

    def release(self, *, holder: str) -> None:
        """Release every lease of this holder, so that the next dispatcher need not wait for them to expire."""
        free = update(JobRow).where(JobRow.lease_holder == holder).values(lease_holder=None, lease_until=0)
        with self._write.begin() as session:
            session.execute(free.execution_options(synchronize_session=False))

    def occupying(self) -> list[Job]:
        """List the jobs that are running or being cancelled, of all holders, oldest first."""
        with self._read() as session:
            found = session.scalars(select(JobRow).where(JobRow.status.in_(OCCUPYING)).order_by(JobRow.seq))
            return self._reader.read_all(Job, found)

    def _lease_end(self, lease_s: float) -> int:
        return math.ceil(self._database.clock() + lease_s)  # whole seconds; never shorter than asked


def _fits(cluster: Machines | None) -> ColumnElement[bool]:
    """Make the condition on jobs that the cluster is large enough for, as `Machines.lack` says; an
    unknown cluster is.
    """
    if cluster is None:
        return true()
    total = and_(JobRow.cpus <= cluster.total.cpus + TOLERANCE, JobRow.gpus <= cluster.total.gpus)
    nodes = [and_(JobRow.node_cpus <= node.cpus + TOLERANCE, JobRow.node_gpus <= node.gpus) for node in cluster.largest]
    return and_(total, or_(*nodes)) if nodes else total


def _waits_for(job: Job, cluster: Machines) -> str | None:
    """Return why a job does not start, in a sentence; None: the cluster is large enough."""
    lack = cluster.lack(Need(Capacity(job.cpus, job.gpus), Capacity(job.node_cpus, job.node_gpus)))
    if lack is None:
        return None
    joined = "machines with as much have joined"
    return f"it {lack}: it starts once {joined}, and holds up no other job; cancel it if none will"


def _room(
    session: Session, max_running: int, max_running_per_owner: int | None, cluster: Machines | None, *, grows: bool
) -> ColumnElement[bool] | None:
    """Make the condition on the queued jobs that may start now; None: no job may start."""
    if max_running_per_owner == 0:
        return None
    occupying = JobRow.status.in_(OCCUPYING)
    counted = select(JobRow.owner, func.count()).where(occupying, _fits(cluster)).group_by(JobRow.owner)
    occupied = {owner: int(count) for owner, count in session.execute(counted)}
    startable: list[ColumnElement[bool]] = []
    if sum(occupied.values()) < max_running:
        limit = max_running_per_owner
        full = [] if limit is None else [owner for owner, count in occupied.items() if count >= limit]
        startable.append(and_(_fits(cluster), JobRow.owner.not_in(full)) if full else _fits(cluster))
    if cluster is not None and grows:
        waiting = select(JobRow.seq).where(occupying, not_(_fits(cluster))).limit(1)
        if session.scalar(waiting) is None:
            startable.append(not_(_fits(cluster)))
    return or_(*startable) if startable else None


def _next(session: Session, now: int, room: ColumnElement[bool]) -> JobRow | None:
    """Return the oldest job of the highest priority; both queries follow the index of the queue and stop at the first
    row.
    """
    fits = [JobRow.status == Status.QUEUED.value, JobRow.not_before <= now, room]
    highest = select(JobRow.priority).where(*fits).order_by(JobRow.priority.desc()).limit(1).scalar_subquery()
    query = select(JobRow).where(*fits, JobRow.priority == highest).order_by(JobRow.seq).limit(1)
    return session.scalars(query.with_for_update(skip_locked=True, key_share=True)).first()
