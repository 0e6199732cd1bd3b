"""Keeps Serve in the wanted state: each group of deployments has its application, also after a restart of Ray."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eda_service.config.deployment import EngineLimits
from eda_service.jobstore import JobStore
from eda_service.raycluster.jobs_api import ClusterUnreachableError
from eda_service.raycluster.serve_api import Application, ServeApi
from eda_service.raycluster.serve_plan import (
    ANYWHERE,
    USUAL,
    Listen,
    ReplicaPlacement,
    build_config,
    groups_of,
    keeping,
)

logger = logging.getLogger(__name__)

# Worst first: the word for the whole is that of its worst part.
_WORST_FIRST = ("DEPLOY_FAILED", "UNHEALTHY", "NOT_STARTED", "DEPLOYING", "DELETING", "RUNNING")


class Serving:
    """Level-triggered: applies the config when it differs from the last one applied, or when Serve has lost a part."""

    def __init__(
        self,
        store: JobStore,
        api: ServeApi,
        listen: Listen,
        placement: ReplicaPlacement = ANYWHERE,
        limits: EngineLimits = USUAL,
    ) -> None:
        self._store, self._api, self._listen, self._placement, self._limits = store, api, listen, placement, limits
        self._applied: dict[str, Any] | None = None
        self.applications: Mapping[str, Application] = {}

    @property
    def status(self) -> str | None:
        """Return Serve's status word for all applications together; None: nothing is deployed."""
        found = {application.status for application in self.applications.values()}
        return next((word for word in _WORST_FIRST if word in found), None)

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def reconcile(self) -> None:
        """Compare once and apply; if Serve does not answer, the next call tries again."""
        found = self._store.deployments.all(unreadable=True)
        groups = groups_of((each for each in found if each.unreadable is None), self._store.loads.all())
        wanted = build_config(groups, self._listen, self._placement, self._limits)
        try:
            self.applications = self._remembering(self._api.applications())
            wanted = self._keeping(wanted, {each.name for each in found if each.unreadable is not None})
            names = {application["name"] for application in wanted["applications"]}
            if not names and not self.applications:
                return  # nothing to offer and nothing there: no controller that would hold memory for nothing
            if wanted == self._applied and names <= set(self.applications):
                return
            self._api.apply(wanted)
            self._applied = wanted
            logger.info("serving %s", ", ".join(model.name for group in groups for model in group.models) or "nothing")
        except ClusterUnreachableError as error:
            logger.warning("cannot update Serve: %s", error.message)

    def _keeping(self, wanted: dict[str, Any], unreadable: set[str]) -> dict[str, Any]:
        """Return the config with the applications that were served under names whose rows cannot be read, if known."""
        if not unreadable:
            return wanted
        if self._applied is not None:
            return keeping(wanted, self._applied["applications"], unreadable)
        return keeping(wanted, [each.config for each in self.applications.values()], unreadable)

    def _remembering(self, found: dict[str, Application]) -> dict[str, Application]:
        """Add the known replicas where Serve lists none: they run on while Serve applies a change."""
        known = {name: application.num_running for name, application in self.applications.items()}
        return {
            name: replace(each, num_running=known.get(name)) if each.num_running is None else each
            for name, each in found.items()
        }
