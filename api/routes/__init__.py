"""One router per resource; a route validates, calls one service and returns a model."""

from api.routes import (
    adaptations,
    deployments,
    drafts,
    exports,
    files,
    fine_tuning,
    front,
    health,
    jobs,
    measurements,
    metrics,
    openai_gateway,
    pack_versions,
    packs,
)

ALL = tuple(
    module.router
    for module in (
        adaptations,
        deployments,
        drafts,
        exports,
        files,
        fine_tuning,
        front,
        health,
        jobs,
        measurements,
        metrics,
        openai_gateway,
        pack_versions,
        packs,
    )
)
"""Every router of the API."""
