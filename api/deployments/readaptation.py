"""Adapts a fallen deployment again, on the prompts that its replicas kept: an ordinary job and an ordinary gate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from pydantic import ValidationError

from api.packs.packs import PackService
from api.settings import Settings
from eda_service.config.deployment import MIN_KEPT_PROMPTS, DriftConfig
from eda_service.config.job import AdaptConfig
from eda_service.errors import QuotaExceededError
from eda_service.jobstore import Deployment, Drift, JobStore
from eda_service.planning.placement import need_of
from eda_service.references import Alias, Reference
from eda_service.storage.samples import prompts

logger = logging.getLogger(__name__)

MADE_BY = {"made_by": "drift"}
_HELD_OUT = 4  # one prompt of four is for the evaluation, if the pack's own job held out more


class Readaptation:
    """Makes jobs.

    Args:
        store: The queue.
        packs: How the served pack was made.
        settings: Where prompts are, and quotas.
        wake: Called after a job was made.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: JobStore,
        packs: PackService,
        settings: Settings,
        wake: Callable[[], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._packs, self._settings, self._wake, self._clock = store, packs, settings, wake, clock

    def consider(self, deployment: Deployment, drift: Drift, settings: DriftConfig) -> None:
        """Queue a job for one fall, or say why there is none; too soon or with too few prompts, look again later."""
        why = _not_followed(deployment) or self._pinned(deployment)
        if why is not None:
            self._skip(deployment, drift, why)
            return
        if drift.adapted_at is not None and self._clock() - drift.adapted_at < settings.cool_down_s:
            return
        home = self._settings.home
        rows = prompts.newest(home, deployment.uid, settings.keep_prompts)
        if len(rows) < MIN_KEPT_PROMPTS:
            return
        source = prompts.freeze(home, deployment.uid, rows, f"drift-{drift.crossed_at}")
        try:
            config = self._config(deployment, str(source), len(rows))
            job, _ = self._store.jobs.create(
                config,
                owner=deployment.owner,
                labels={**MADE_BY, "deployment": deployment.name},
                max_attempts=self._settings.max_attempts,
                idempotency_key=f"drift/{deployment.uid}/{drift.pack}/{drift.crossed_at}/{drift.adapted_at}",
                request_sha256="drift",
                force=True,
                max_queued_per_owner=self._settings.max_queued_per_owner,
                need=need_of(config),
            )
        except (ValidationError, QuotaExceededError) as error:
            why = "the settings of the pack's own job are not valid any more"
            if isinstance(error, QuotaExceededError):
                why = error.message
            self._skip(deployment, drift, why)
            return
        message = f"{job.id} adapts again, on the newest {len(rows)} prompts"
        self._store.drifts.record_handled(
            deployment.name, deployment.uid, "adaptation_queued", message, {"job": job.id}, is_job=True
        )
        logger.info("%s: %s", deployment.name, message)
        self._wake()

    def _pinned(self, deployment: Deployment) -> str | None:
        """Why a new version would not replace the one that is served: its owner has pinned it."""
        served = self._packs.served(deployment.pack)
        if served is None or not self._packs.is_pinned_by(deployment.owner, served):
            return None
        return (
            f"{served.reference} is pinned, so that a new version would not be served; `eda packs pin {served.name} "
            "--off` lets it"
        )

    def _skip(self, deployment: Deployment, drift: Drift, why: str) -> None:
        self._store.drifts.record_handled(
            deployment.name, deployment.uid, "adaptation_skipped", why, {"pack": drift.pack}, is_job=False
        )

    def _config(self, deployment: Deployment, source: str, num_prompts: int) -> AdaptConfig:
        """As the served pack was made, on other prompts. The new pack shall be served if it gains as much as that one
        had to, also where that one was published first and deployed by hand.
        """
        served = self._packs.served(deployment.pack)
        made_with = {} if served is None or served.manifest is None else served.manifest.config
        evaluation = dict(made_with.get("evaluation", {}))
        held_out = max(1, min(int(evaluation.get("num_prompts", num_prompts)), num_prompts // _HELD_OUT))
        return AdaptConfig.model_validate(
            {
                **made_with,
                "target": deployment.target,
                "base_draft": deployment.base_draft,
                "served_name": deployment.name,
                "dataset": {"source": source, "num_prompts": num_prompts},
                "eval_dataset": None,
                "evaluation": {**evaluation, "num_prompts": held_out},
                "deploy": {**made_with.get("deploy", {}), "enabled": True},
            }
        )


def _not_followed(deployment: Deployment) -> str | None:
    """Why a new version of the deployment's own pack would not be swapped in."""
    latest = Reference(deployment.name, Alias.LATEST)
    if deployment.pack_ref in {None, deployment.name, str(latest)}:
        return None
    return (
        f"{deployment.name} is set to {deployment.pack_ref}, so a new version of the pack {deployment.name} would not "
        f"be served; set it to {latest} to adapt again"
    )
