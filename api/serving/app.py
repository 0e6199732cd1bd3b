"""The Serve deployment: a FastAPI application over the models that `user_config` names.

Models over one base target share an engine (`ServedGroup`); a target that cannot share has one of its own. The
dispatcher changes `user_config`; Serve calls `reconfigure` on the live replica, which loads what is new beside what
runs and swaps it in between two rounds: requests that run end on the version they began with.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from ray import serve
from starlette.responses import Response

from api import errors
from api.middleware import Envelope
from api.serving import completions
from api.serving.completions import ServedPair
from api.serving.schemas import (
    ChatCompletion,
    ChatRequest,
    CompletionRequest,
    ModelCard,
    ModelList,
    ReplicaMemory,
    TextCompletion,
)
from api.serving.served_models import ServedModels
from eda_service.distributed.serve_config import ServedModel

_DRAIN_S = 60.0
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

app = FastAPI(title="EDA endpoint", openapi_url=None)
app.add_middleware(Envelope)
errors.install(app)


# Above the class: `serve.ingress` serialises the routes with the names that exist when it decorates.
async def _streamed(events: AsyncGenerator[str, None]) -> StreamingResponse:
    """A stream whose first event is there: what the engine refuses is still an ordinary error."""
    first = await anext(events)
    return StreamingResponse(completions.framed(first, events), media_type="text/event-stream", headers=_STREAM_HEADERS)


def _card(pair: ServedPair) -> ModelCard:
    return ModelCard(
        id=pair.name,
        created=pair.loaded_at,
        base_draft=pair.base_draft,
        pack=pair.pack,
        max_model_len=pair.max_model_len,
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
    """Serves every model of its `user_config`."""

    def __init__(self) -> None:
        self._models = ServedModels()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve the models of the config."""
        await self._models.make(map(ServedModel.model_validate, user_config["models"]))

    def check_health(self) -> None:
        """Have this replica replaced when an engine has failed.

        Raises:
            RuntimeError: An engine has failed.
        """
        broken = self._models.broken
        if broken:
            raise RuntimeError(f"the engine of {', '.join(broken)} has failed")

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(self, body: ChatRequest) -> Response | ChatCompletion:
        """Answer a conversation."""
        answer = completions.start_chat(self._models[body.model], body)
        if not body.stream:
            return await completions.whole_chat(answer)
        return await _streamed(completions.chat_events(answer, include_usage=body.wants_usage))

    @app.post("/v1/completions", response_model=None)
    async def complete(self, body: CompletionRequest) -> Response | TextCompletion:
        """Continue a prompt."""
        answer = completions.start_completion(self._models[body.model], body)
        if not body.stream:
            return await completions.whole_completion(answer)
        return await _streamed(completions.completion_events(answer, include_usage=body.wants_usage))

    @app.get("/v1/models")
    async def models(self) -> ModelList:
        """Everything that is served now."""
        return ModelList(data=[_card(pair) for pair in self._models.pairs])

    @app.get("/v1/models/{name}")
    async def model(self, name: str) -> ModelCard:
        """One served pair."""
        return _card(self._models[name])

    @app.get("/internal/variants")
    async def memory(self) -> ReplicaMemory:
        """What this replica holds."""
        return await self._models.memory()

    @app.get("/health")
    async def health(self) -> dict[str, str]:
        """The replica answers."""
        return {"status": "ok"}


def build_app(_args: dict[str, Any]) -> serve.Application:
    """What Serve's declarative config imports."""
    application: serve.Application = Endpoint.bind()  # type: ignore[attr-defined]  # the decorator is untyped
    return application
