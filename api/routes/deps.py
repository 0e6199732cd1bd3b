"""What routes receive: the service objects on the application, the caller, and names from the path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Path, Request

from api.auth import Caller, identify, require_scope
from api.deployments.deployments import DeploymentService
from api.dispatcher.dispatcher import Dispatcher
from api.drafts.drafts import Drafts
from api.files.files import Files
from api.gateway.directory import Directory
from api.gateway.gateway import Gateway
from api.gateway.key_watch import KeyWatch
from api.gateway.limits import Limits
from api.jobs.adaptations import Adaptations
from api.jobs.feed import EventFeed
from api.jobs.jobs import Jobs
from api.jobs.measurements import Measurements
from api.metrics.disk import Disk
from api.metrics.history import ServingHistory
from api.metrics.metrics import Metrics
from api.packs.exports import Exports
from api.packs.packs import PackService
from api.packs.removal import PackRemoval
from api.services import Services, services_of
from eda_service.ids import JOB_ID_PATTERN
from eda_service.jobstore import JobStore
from eda_service.names import MAX_NAME_CHARACTERS
from eda_service.scopes import Scope

T = TypeVar("T")


def part(pick: Callable[[Services], T]) -> Callable[[Request], T]:
    """A dependency: one of the services of the application that a request came to."""

    def of_request(request: Request) -> T:
        return pick(services_of(request))

    return of_request


def require(*scopes: Scope) -> Callable[[Request], Caller]:
    """A dependency: the caller, whose key has one of these scopes or is an admin's."""

    def caller(request: Request) -> Caller:
        return require_scope(identify(services_of(request).store.keys, request.headers.get("authorization")), *scopes)

    return caller


StoreDep = Annotated[JobStore, Depends(part(lambda services: services.store))]
DispatcherDep = Annotated[Dispatcher, Depends(part(lambda services: services.dispatcher))]
AdaptationsDep = Annotated[Adaptations, Depends(part(lambda services: services.adaptations))]
JobsDep = Annotated[Jobs, Depends(part(lambda services: services.jobs))]
DraftsDep = Annotated[Drafts, Depends(part(lambda services: services.drafts))]
MeasurementsDep = Annotated[Measurements, Depends(part(lambda services: services.measurements))]
ExportsDep = Annotated[Exports, Depends(part(lambda services: services.exports))]
GatewayDep = Annotated[Gateway, Depends(part(lambda services: services.gateway))]
DeploymentsDep = Annotated[DeploymentService, Depends(part(lambda services: services.deployments))]
PacksDep = Annotated[PackService, Depends(part(lambda services: services.packs))]
PackRemovalDep = Annotated[PackRemoval, Depends(part(lambda services: services.pack_removal))]
DirectoryDep = Annotated[Directory, Depends(part(lambda services: services.directory))]
MetricsDep = Annotated[Metrics, Depends(part(lambda services: services.metrics))]
DiskDep = Annotated[Disk, Depends(part(lambda services: services.disk))]
HistoryDep = Annotated[ServingHistory, Depends(part(lambda services: services.history))]
LimitsDep = Annotated[Limits, Depends(part(lambda services: services.limits))]
FilesDep = Annotated[Files, Depends(part(lambda services: services.files))]
FeedDep = Annotated[EventFeed, Depends(part(lambda services: services.feed))]
KeysDep = Annotated[KeyWatch, Depends(part(lambda services: services.keys))]
ReaderDep = Annotated[Caller, Depends(require(Scope.JOBS_READ))]
LookerDep = Annotated[Caller, Depends(require(Scope.JOBS_READ, Scope.INFER))]
WriterDep = Annotated[Caller, Depends(require(Scope.JOBS_WRITE))]
InferDep = Annotated[Caller, Depends(require(Scope.INFER))]

JobId = Annotated[str, Path(pattern=f"^{JOB_ID_PATTERN}$", description="job id")]
DeploymentName = Annotated[str, Path(max_length=MAX_NAME_CHARACTERS, description="name at /v1/models")]
