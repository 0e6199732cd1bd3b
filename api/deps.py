"""What routes receive: the service objects on the application, the caller, and names from the path."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from api.auth import Caller, require
from api.services.adaptations import Adaptations
from api.services.deployments import DeploymentService
from api.services.directory import Directory
from api.services.disk import Disk
from api.services.dispatcher import Dispatcher
from api.services.drafts import Drafts
from api.services.exports import Exports
from api.services.feed import EventFeed
from api.services.files import Files
from api.services.gateway import Gateway
from api.services.history import ServingHistory
from api.services.jobs import Jobs
from api.services.key_watch import KeyWatch
from api.services.limits import Limits
from api.services.measurements import Measurements
from api.services.metrics import Metrics
from api.services.pack_removal import PackRemoval
from api.services.packs import PackService
from eda_service.ids import JOB_ID_PATTERN
from eda_service.jobstore import JobStore
from eda_service.names import MAX_NAME_CHARACTERS
from eda_service.scopes import Scope


def _store(request: Request) -> JobStore:
    store: JobStore = request.app.state.store
    return store


def _dispatcher(request: Request) -> Dispatcher:
    dispatcher: Dispatcher = request.app.state.dispatcher
    return dispatcher


def _adaptations(request: Request) -> Adaptations:
    adaptations: Adaptations = request.app.state.adaptations
    return adaptations


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def _drafts(request: Request) -> Drafts:
    drafts: Drafts = request.app.state.drafts
    return drafts


def _measurements(request: Request) -> Measurements:
    measurements: Measurements = request.app.state.measurements
    return measurements


def _exports(request: Request) -> Exports:
    exports: Exports = request.app.state.exports
    return exports


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _feed(request: Request) -> EventFeed:
    feed: EventFeed = request.app.state.feed
    return feed


def _deployments(request: Request) -> DeploymentService:
    deployments: DeploymentService = request.app.state.deployments
    return deployments


def _packs(request: Request) -> PackService:
    packs: PackService = request.app.state.packs
    return packs


def _pack_removal(request: Request) -> PackRemoval:
    removal: PackRemoval = request.app.state.pack_removal
    return removal


def _directory(request: Request) -> Directory:
    directory: Directory = request.app.state.directory
    return directory


def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


def _disk(request: Request) -> Disk:
    disk: Disk = request.app.state.disk
    return disk


def _history(request: Request) -> ServingHistory:
    history: ServingHistory = request.app.state.history
    return history


def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


def _files(request: Request) -> Files:
    files: Files = request.app.state.files
    return files


def _keys(request: Request) -> KeyWatch:
    keys: KeyWatch = request.app.state.keys
    return keys


StoreDep = Annotated[JobStore, Depends(_store)]
DispatcherDep = Annotated[Dispatcher, Depends(_dispatcher)]
AdaptationsDep = Annotated[Adaptations, Depends(_adaptations)]
JobsDep = Annotated[Jobs, Depends(_jobs)]
DraftsDep = Annotated[Drafts, Depends(_drafts)]
MeasurementsDep = Annotated[Measurements, Depends(_measurements)]
ExportsDep = Annotated[Exports, Depends(_exports)]
GatewayDep = Annotated[Gateway, Depends(_gateway)]
DeploymentsDep = Annotated[DeploymentService, Depends(_deployments)]
PacksDep = Annotated[PackService, Depends(_packs)]
PackRemovalDep = Annotated[PackRemoval, Depends(_pack_removal)]
DirectoryDep = Annotated[Directory, Depends(_directory)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
DiskDep = Annotated[Disk, Depends(_disk)]
HistoryDep = Annotated[ServingHistory, Depends(_history)]
LimitsDep = Annotated[Limits, Depends(_limits)]
FilesDep = Annotated[Files, Depends(_files)]
FeedDep = Annotated[EventFeed, Depends(_feed)]
KeysDep = Annotated[KeyWatch, Depends(_keys)]
ReaderDep = Annotated[Caller, Depends(require(Scope.JOBS_READ))]
LookerDep = Annotated[Caller, Depends(require(Scope.JOBS_READ, Scope.INFER))]
WriterDep = Annotated[Caller, Depends(require(Scope.JOBS_WRITE))]
InferDep = Annotated[Caller, Depends(require(Scope.INFER))]

JobId = Annotated[str, Path(pattern=f"^{JOB_ID_PATTERN}$", description="job id")]
DeploymentName = Annotated[str, Path(max_length=MAX_NAME_CHARACTERS, description="name at /v1/models")]
