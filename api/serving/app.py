"""The Serve deployment: a FastAPI application over the pairs that `user_config` names.

The dispatcher changes `user_config`; Serve calls `reconfigure` on the live replica, which loads what is new beside what
runs, swaps, and lets the old engines finish their requests. A pack is exchanged without dropping a request.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import Any

from fastapi import FastAPI
from ray import serve

from api import errors
from api.middleware import Envelope
from api.serving.call import ServedPair
from api.serving.routes import router
from api.serving.runner import EngineRunner
from api.serving.token_text import TokenText
from eda_service.config import TargetSpec
from eda_service.distributed.endpoint import load_engine
from eda_service.distributed.serve_config import ServedModel
from eda_service.errors import EdaError, ModelNotFoundError, ResourceError

logger = logging.getLogger(__name__)

MAX_BATCH = 16
MAX_WAITING = 64
MAX_TOKENS = 2048
_DRAIN_S = 60.0
_REQUEST_TIMEOUT_S = 600.0

app = FastAPI(title="EDA endpoint", openapi_url=None)
app.add_middleware(Envelope)
app.include_router(router)
errors.install(app)


def load_pair(model: ServedModel) -> ServedPair:
    """Load target, draft and pack and start their engine."""
    engine, target = load_engine(
        TargetSpec.model_validate(model.target),
        model.base_draft,
        model.pack,
        max_batch=MAX_BATCH,
        max_tokens=MAX_TOKENS,
    )
    return ServedPair(
        name=model.name,
        base_draft=model.base_draft,
        pack=model.pack,
        loaded_at=int(time.time()),
        runner=EngineRunner(engine, num_threads=len(os.sched_getaffinity(0)), max_waiting=MAX_WAITING),
        fingerprint=f"fp_{target.fingerprint.weights_sha256[:10]}",
        tokenizer=target.tokenizer,
        token_text=TokenText(target.tokenizer),
        num_spec_tokens=engine.num_draft_tokens,
        max_model_len=engine.max_tokens,
    )


@serve.deployment(
    name="Endpoint",
    ray_actor_options={"num_cpus": 0.5},
    max_ongoing_requests=1024,  # our own bound is the engine's; Serve's would answer 503 without a Retry-After
    health_check_period_s=5,
    graceful_shutdown_timeout_s=_DRAIN_S,
)
@serve.ingress(app)
class Endpoint:
    """Serves every pair of its `user_config`."""

    def __init__(self) -> None:
        self.request_timeout_s = float(os.environ.get("EDA_REQUEST_TIMEOUT_S", _REQUEST_TIMEOUT_S))
        self._pairs: dict[str, ServedPair] = {}
        self._loaded: dict[str, ServedModel] = {}
        self._failed: dict[str, tuple[ServedModel, str]] = {}

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Make the served pairs those of the config. One that does not load leaves the others as they are."""
        wanted = {model.name: model for model in map(ServedModel.model_validate, user_config["models"])}
        for name, model in wanted.items():
            if self._loaded.get(name) == model:
                self._failed.pop(name, None)
                continue
            try:
                pair = await asyncio.to_thread(load_pair, model)
            except EdaError as error:
                logger.exception("cannot serve %s", name)
                self._failed[name] = (model, error.message)
                continue
            self._retire(name)
            self._failed.pop(name, None)
            self._pairs[name], self._loaded[name] = pair, model
        for name in set(self._pairs) - set(wanted):
            self._retire(name)
        self._failed = {name: failure for name, failure in self._failed.items() if name in wanted}

    def check_health(self) -> None:
        """Have this replica replaced when an engine has failed.

        Raises:
            RuntimeError: An engine has failed.
        """
        broken = [pair.name for pair in self._pairs.values() if pair.runner.failure is not None]
        if broken:
            raise RuntimeError(f"the engine of {', '.join(broken)} has failed")

    @app.get("/internal/variants")
    async def variants(self) -> dict[str, Any]:
        """What this replica has loaded, for `/v1/deployments`; not reachable from outside."""
        loaded = [
            {
                "name": pair.name,
                "base_draft": pair.base_draft,
                "pack": pair.pack,
                "loaded_at": pair.loaded_at,
                "num_running": pair.runner.num_open,
                "adapter_bytes": None,
                "pack_bytes": None,
            }
            for pair in self._pairs.values()
        ]
        failed = [
            {"name": name, "base_draft": model.base_draft, "pack": model.pack, "reason": reason}
            for name, (model, reason) in self._failed.items()
        ]
        return {"base_bytes": None, "variants": loaded, "failed": failed}

    def pairs(self) -> list[ServedPair]:
        """Every pair that is served now."""
        return list(self._pairs.values())

    def pair(self, name: str) -> ServedPair:
        """The pair of a name.

        Raises:
            ModelNotFoundError: There is none.
            ResourceError: It could not be loaded.
        """
        pair = self._pairs.get(name)
        if pair is not None:
            return pair
        if name in self._failed:
            raise ResourceError(f"{name} could not be loaded: {self._failed[name][1]}")
        served = ", ".join(sorted(self._pairs)) or "nothing"
        raise ModelNotFoundError(f"no model {name[:96]!r} is served here; there is {served}", param="model")

    def _retire(self, name: str) -> None:
        self._loaded.pop(name, None)
        pair = self._pairs.pop(name, None)
        if pair is not None:
            pair.runner.retire()


def build_app(_args: dict[str, Any]) -> serve.Application:
    """What Serve's declarative config imports."""
    application: serve.Application = Endpoint.bind()  # type: ignore[attr-defined]  # the decorator is untyped
    return application
