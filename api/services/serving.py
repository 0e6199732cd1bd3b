"""Keeps Serve at the wanted state: every deployment row is offered, also after Ray was restarted."""

from __future__ import annotations

import logging
from typing import Any

from eda_service.distributed.ray_jobs import ClusterUnreachableError
from eda_service.distributed.serve_config import ServeApi, ServedModel, build_config
from eda_service.jobstore import JobStore

logger = logging.getLogger(__name__)


class Serving:
    """Level-triggered: applies the config when it differs from what was applied last, or when Serve has lost it."""

    def __init__(self, store: JobStore, api: ServeApi, port: int) -> None:
        self._store, self._api, self._port = store, api, port
        self._applied: dict[str, Any] | None = None
        self.status: str | None = None

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def reconcile(self) -> None:
        """One look; a Serve that does not answer is tried again at the next one."""
        rows = self._store.deployments()
        if not rows:
            return  # nothing to offer: no replica that would hold memory for nothing
        models = [
            ServedModel(name=row.name, target=row.target, base_draft=row.base_draft, pack=row.pack) for row in rows
        ]
        wanted = build_config(models, port=self._port)
        try:
            self.status = self._api.application_status()
            if wanted == self._applied and self.status is not None:
                return
            self._api.apply(wanted)
            self._applied = wanted
            logger.info("serving %s", ", ".join(model.name for model in models))
        except ClusterUnreachableError as error:
            logger.warning("cannot update Serve: %s", error.message)
