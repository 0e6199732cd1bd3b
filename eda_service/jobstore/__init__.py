"""The durable queue: its rows are authoritative, files and Ray follow. API processes and `eda keys` open it, workers
never.
"""

from eda_service.jobstore.deployments.deployment import (
    Content,
    Deployment,
    DeploymentEvent,
    Drift,
    Load,
    Revision,
    load_of,
    served_version,
)
from eda_service.jobstore.jobs.job import Delivery, Event, Job, KeyInfo, StoredFile
from eda_service.jobstore.jobs.status import LIVE, TERMINAL, Status
from eda_service.jobstore.store import JobStore

__all__ = [
    "LIVE",
    "TERMINAL",
    "Content",
    "Delivery",
    "Deployment",
    "DeploymentEvent",
    "Drift",
    "Event",
    "Job",
    "JobStore",
    "KeyInfo",
    "Load",
    "Revision",
    "Status",
    "StoredFile",
    "load_of",
    "served_version",
]
