"""The durable queue: rows are the truth, files and Ray follow. Only the API process opens the database."""

from eda_service.jobstore.job import Deployment, Event, Job
from eda_service.jobstore.status import LIVE, TERMINAL, Status
from eda_service.jobstore.store import JobStore

__all__ = ["LIVE", "TERMINAL", "Deployment", "Event", "Job", "JobStore", "Status"]
