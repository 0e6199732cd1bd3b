"""`/health`: the service is up when this answers; `status` says whether everything behind it is.

A probe needs no key and always gets 200. What else there is to know is for who may read jobs.
"""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter, Request

from api.auth import InsufficientScopeError, InvalidKeyError, identify, require_scope
from api.jobs.schemas import HealthBody
from api.routes.deps import DispatcherDep, StoreDep
from eda_service import __version__
from eda_service.jobstore import JobStore
from eda_service.scopes import Scope

router = APIRouter(tags=["health"])

_MAX_LAG_S = 30.0


@router.get("/health", response_model_exclude_unset=True)
def health(request: Request, store: StoreDep, dispatcher: DispatcherDep) -> HealthBody:
    """State of the API, the dispatcher, Ray and Serve; without a key that reads jobs, `status` alone."""
    lag_s = max(0.0, time.time() - dispatcher.last_pass_at)
    serve = dispatcher.serving.status
    good = dispatcher.is_ray_reachable and lag_s < _MAX_LAG_S and serve in {None, "RUNNING", "DEPLOYING", "NOT_STARTED"}
    status: Literal["ok", "degraded"] = "ok" if good else "degraded"
    if not _may_know_more(store, request.headers.get("authorization")):
        return HealthBody(status=status)
    return HealthBody(
        status=status,
        version=__version__,
        ray_reachable=dispatcher.is_ray_reachable,
        serve=serve,
        dispatcher_lag_s=round(lag_s, 1),
        dispatcher_pass_s=round(dispatcher.last_pass_s, 4),
        jobs=store.jobs.counts(),
    )


def _may_know_more(store: JobStore, header: str | None) -> bool:
    try:
        require_scope(identify(store.keys, header), Scope.JOBS_READ)
    except (InvalidKeyError, InsufficientScopeError):
        return False
    return True
