"""The job store: a database and its parts, each of which changes one kind of row.

It knows nothing of Ray, files or HTTP. Methods of the parts take and return frozen values; a session never leaves this
package. Every change of a job's state and the event that tells of it are one transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from eda_service.jobstore.database import Database
from eda_service.jobstore.deployments.deployments import DeploymentStore
from eda_service.jobstore.deployments.drift import DriftLog
from eda_service.jobstore.deployments.loads import LoadLog
from eda_service.jobstore.files import FileStore
from eda_service.jobstore.jobs.adoption import Adoption
from eda_service.jobstore.jobs.eventlog import EventLog
from eda_service.jobstore.jobs.leases import Leases
from eda_service.jobstore.jobs.queue import JobQueue
from eda_service.jobstore.keys import KeyStore
from eda_service.jobstore.outbox import Outbox
from eda_service.jobstore.vault import Vault


class JobStore:
    """Everything that the service remembers, over one database; a service takes the parts that it uses.

    Args:
        url: SQLAlchemy URL, e.g. `sqlite:////home/me/.eda/eda.db` or `postgresql://eda:secret@db/eda`.
        clock: Seconds since the epoch; passed in so that tests choose the time.
        vault: Keeps the secrets of webhooks; None: this process stores and reads none.

    Attributes:
        database: The database that the parts share.
        jobs: The queue: jobs of every kind, and their states.
        leases: The claims of processes on jobs that run.
        adoption: Jobs that were found in run directories or in Ray.
        events: The events of jobs.
        outbox: Webhooks that wait to be sent.
        keys: API keys.
        deployments: Deployments and their revisions.
        drifts: Deployments whose acceptance has fallen.
        loads: How often the start of a deployment has failed.
        files: Uploaded files.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time, vault: Vault | None = None) -> None:
        self.database = database = Database(url, clock=clock, vault=vault)
        self.jobs = JobQueue(database)
        self.leases = Leases(database)
        self.adoption = Adoption(database)
        self.events = EventLog(database)
        self.outbox = Outbox(database)
        self.keys = KeyStore(database)
        self.deployments = DeploymentStore(database)
        self.drifts = DriftLog(database)
        self.loads = LoadLog(database)
        self.files = FileStore(database)

    @property
    def backend(self) -> str:
        """`sqlite` (one API process on this machine) or `postgresql` (as many as you like)."""
        return self.database.backend

    @property
    def num_unreadable(self) -> dict[str, int]:
        """Rows that this process could not read when it last looked at them, by table."""
        return self.database.reader.num_unreadable

    def close(self) -> None:
        """Close every pooled connection."""
        self.database.close()
