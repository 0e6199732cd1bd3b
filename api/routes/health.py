"""`/health`: the service is up when this answers; `status` says whether everything behind it is."""

from __future__ import annotations

import time

from fastapi import APIRouter

from api.deps import DispatcherDep, StoreDep
from api.schemas import HealthBody
from eda_service import __version__

router = APIRouter(tags=["health"])

_MAX_LAG_S = 30.0


@router.get("/health")
def health(store: StoreDep, dispatcher: DispatcherDep) -> HealthBody:
    """State of the API, the dispatcher, Ray and Serve."""
    lag_s = max(0.0, time.time() - dispatcher.last_pass_at)
    serve = dispatcher.serving.status
    good = dispatcher.is_ray_reachable and lag_s < _MAX_LAG_S and serve in {None, "RUNNING", "DEPLOYING", "NOT_STARTED"}
    return HealthBody(
        status="ok" if good else "degraded",
        version=__version__,
        ray_reachable=dispatcher.is_ray_reachable,
        serve=serve,
        dispatcher_lag_s=round(lag_s, 1),
        dispatcher_pass_s=round(dispatcher.last_pass_s, 4),
        jobs=store.counts(),
    )
