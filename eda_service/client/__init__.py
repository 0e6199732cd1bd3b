"""Typed clients of the jobs API, blocking and asynchronous. Imports neither torch, Ray nor SQLAlchemy.

calls.py       what goes over the wire: path, body and parser of each operation, once for both clients
answers.py     what comes back, read tolerantly: an older client works with a newer service; sample_answers.py: likewise
retry.py       when and how late a failed call is repeated; how long a service that went away is waited for
stream.py      server-sent events, and where a stream goes on after a break
logs.py        where a followed log goes on, from stage to stage
deployments.py `deployments` and `packs` of both clients; deployment_calls.py, deployment_answers.py: as above
exports.py     `exports` of both clients, with what goes over the wire
files.py       `files` of both clients; file_calls.py: as above
tasks.py       `jobs`, `drafts` and `measurements` of both clients; task_calls.py, task_answers.py: as above
chat.py        `chat` of both clients; chat_answers.py: what the endpoint streams
blocking.py    `Client`
asynchronous.py  `AsyncClient`, the same methods
"""

from eda_service.client.answers.answers import (
    Adaptation,
    Cost,
    DraftNumbers,
    Estimate,
    JobError,
    JobEvent,
    LogChunk,
    Outcome,
    Page,
    Progress,
    Remaining,
)
from eda_service.client.answers.chat_answers import ChatPiece, Span, Speculation
from eda_service.client.answers.deployment_answers import (
    Deployment,
    DeploymentEvent,
    Drift,
    Evaluation,
    Memory,
    Pack,
    PackComparison,
    PackVersion,
    PackVersionDetail,
    Replicas,
    Revision,
)
from eda_service.client.answers.sample_answers import Sample, SamplePage
from eda_service.client.answers.task_answers import DeletedJob, Draft, DraftCheck, Job, Measurement, Reading
from eda_service.client.asynchronous import AsyncClient
from eda_service.client.blocking import Client
from eda_service.client.calls.file_calls import UploadedFile
from eda_service.client.connection import DEFAULT_URL
from eda_service.client.deployments import NotServedError
from eda_service.client.errors import ApiError, ServiceUnreachableError, UnexpectedAnswerError
from eda_service.client.exports import Export, ExportOffer, ExportOffers

__all__ = [
    "DEFAULT_URL",
    "Adaptation",
    "ApiError",
    "AsyncClient",
    "ChatPiece",
    "Client",
    "Cost",
    "DeletedJob",
    "Deployment",
    "DeploymentEvent",
    "Draft",
    "DraftCheck",
    "DraftNumbers",
    "Drift",
    "Estimate",
    "Evaluation",
    "Export",
    "ExportOffer",
    "ExportOffers",
    "Job",
    "JobError",
    "JobEvent",
    "LogChunk",
    "Measurement",
    "Memory",
    "NotServedError",
    "Outcome",
    "Pack",
    "PackComparison",
    "PackVersion",
    "PackVersionDetail",
    "Page",
    "Progress",
    "Reading",
    "Remaining",
    "Replicas",
    "Revision",
    "Sample",
    "SamplePage",
    "ServiceUnreachableError",
    "Span",
    "Speculation",
    "UnexpectedAnswerError",
    "UploadedFile",
]
