"""The Serve deployment: a FastAPI application over the models that `user_config` names.

Models over one base target share an engine (`ServedGroup`); a target that cannot share has one of its own. The
dispatcher changes `user_config`; Serve calls `reconfigure` on the live replica, which loads what is new beside what
runs and swaps it in between two rounds: requests that run end on the version they began with, and new ones come
meanwhile.
"""

from __future__ import annotations

import logging
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from api import errors
from api.endpoint.engines.interfaces import ServedPair
from api.endpoint.load_marks import LoadMarks
from api.endpoint.metrics.aggregator import RemoteAggregator
from api.endpoint.metrics.group_metrics import GroupMetrics
from api.endpoint.metrics.reporter import MetricsReporter
from api.endpoint.prompt_log import PromptLog
from api.endpoint.protocol.requests import GenerationRequest
from api.endpoint.protocol.schemas import ReplicaMemory
from api.endpoint.reconciler import Reconciler, stops_for_a_swap
from api.endpoint.routes import router
from api.endpoint.served_models import ServedModels
from api.middleware import Envelope
from eda_service.config.deployment import EngineLimits
from eda_service.environment import Environment
from eda_service.raycluster.bound_serve import bind_replica
from eda_service.raycluster.resources import limit_kernel_cache
from eda_service.raycluster.scaling import ROUND_S
from eda_service.raycluster.serve_plan import REPLICA_CPUS, ServedModel
from eda_service.storage.runs.run import home_dir

logger = logging.getLogger(__name__)

_DRAIN_S = 60.0

app = FastAPI(title="EDA endpoint", openapi_url=None)
app.add_middleware(Envelope)
app.include_router(router)
errors.install(app)


@serve.deployment(
    name="Endpoint",
    ray_actor_options={"num_cpus": REPLICA_CPUS},
    max_ongoing_requests=1024,  # our own bound is the engine's; Serve's would answer 503 without a Retry-After
    health_check_period_s=5,
    graceful_shutdown_timeout_s=_DRAIN_S,
)
@serve.ingress(app)
class Endpoint:
    """Serves every model of its `user_config`.

    Args:
        limits: Limits of each engine.
    """

    def __init__(self, limits: EngineLimits) -> None:
        bind_replica()
        limit_kernel_cache()
        self.request_timeout_s = Environment.read().request_timeout_s
        marks = LoadMarks(home_dir(), ray.get_runtime_context().get_session_name())
        self._models = ServedModels(marks, limits)
        here = serve.get_replica_context()
        aggregator = RemoteAggregator(here.app_name)
        self._reporter = MetricsReporter(here.replica_tag, aggregator, self.pairs, self._models.memory)
        self._prompt_log = PromptLog(home_dir(), here.replica_tag)
        self._reconciler = Reconciler(self._models.make, self._reporter.look)
        self._has_begun = False

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve the models of the config: all are loaded on return, or soon after if requests can be answered
        meanwhile.
        """
        models = [ServedModel.model_validate(each) for each in user_config["models"]]
        self._prompt_log.configure(user_config.get("keep", {}))
        if self._has_begun and not any(map(stops_for_a_swap, models)):
            self._reconciler.soon(models)
        else:
            await self._reconciler.now(models)
        self._has_begun = True
        self._reporter.start()

    async def __del__(self) -> None:
        await self._reconciler.stop()
        await self._reporter.stop()
        await self._prompt_log.stop()
        self._models.retire()

    def check_health(self) -> None:
        """Have this replica replaced when an engine has failed or a wanted model cannot be loaded. The error's text is
        shown to every owner of the group, so names and files are written to the log alone.

        Raises:
            RuntimeError: An engine has failed, or a config could not be made.
        """
        if self._reconciler.failure is not None:
            raise RuntimeError("the models could not be loaded; the replica's log says why")
        broken = self._models.broken
        if broken:
            logger.error("the engine of %s has failed", ", ".join(broken))
            raise RuntimeError("an engine of this replica has failed")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Report the numbers that Serve's controller passes to the scaling policy."""
        return {ROUND_S: self._models.round_s}

    def pairs(self) -> list[ServedPair]:
        """Return every pair that is served now."""
        return self._models.pairs

    def pair(self, name: str, uid: str | None) -> ServedPair:
        """Return the pair of a name if it belongs to the deployment of this uid; None: the pair that has the name now.

        Raises:
            ModelNotFoundError: No such pair is served.
            ResourceError: The pair could not be loaded.
        """
        return self._models.find(name, uid)

    def record_prompt(self, pair: ServedPair, request: GenerationRequest) -> None:
        """Keep the prompt if the pair's deployment keeps prompts."""
        self._prompt_log.offer(pair.uid, request)

    async def metrics(self) -> GroupMetrics:
        """Return the metrics of all replicas of this group."""
        return await self._reporter.read()

    @app.get("/internal/variants")
    async def memory(self) -> ReplicaMemory:
        """Return the sizes of the models that this replica holds."""
        return await self._models.memory()


def build_app(args: dict[str, Any]) -> serve.Application:
    """Build the application that Serve's declarative config imports, with its `args`."""
    limits = EngineLimits.model_validate(args.get("limits", {}))
    application: serve.Application = Endpoint.bind(limits)  # type: ignore[attr-defined]  # the decorator is untyped
    return application
