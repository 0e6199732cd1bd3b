"""`/metrics`: the job service and everything that is served, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from api.routes.deps import LookerDep, MetricsDep

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response)
def metrics(caller: LookerDep, found: MetricsDep) -> Response:
    """Prometheus text: series of the caller's deployments (an admin's key: everybody's) and of the job service."""
    return Response(found.text(caller), media_type=CONTENT_TYPE_LATEST)
