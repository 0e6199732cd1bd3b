"""Routes of the OpenAI-compatible endpoint. A Serve replica provides the models (`Models`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from api.endpoint.answers import respond
from api.endpoint.engines.interfaces import ServedPair
from api.endpoint.metrics.group_metrics import GROUP_METRICS, GroupMetrics
from api.endpoint.protocol.requests import ChatRequest, CompletionRequest, GenerationRequest
from api.endpoint.protocol.schemas import ModelCard, ModelList
from eda_service.raycluster.serve_plan import UID_HEADER

router = APIRouter()


class Models(Protocol):
    """The models that are served."""

    request_timeout_s: float

    def pair(self, name: str, uid: str | None) -> ServedPair:
        """Return the pair of a name if it belongs to the deployment of this uid; None: the pair that has the name now.

        Raises:
            ModelNotFoundError: No such pair is served.
            ResourceError: The pair could not be loaded.
        """

    def pairs(self) -> Sequence[ServedPair]:
        """Return all served pairs."""

    def record_prompt(self, pair: ServedPair, request: GenerationRequest) -> None:
        """Keep the prompt of a request if its deployment keeps prompts."""

    async def metrics(self) -> GroupMetrics:
        """Return the metrics of all replicas of the group."""


async def replica() -> Any:
    """Return the Serve replica that this request has reached."""
    from ray import serve

    return serve.get_replica_context().servable_object


ModelsDep = Annotated[Models, Depends(replica)]
Uid = Annotated[str | None, Header(alias=UID_HEADER, description="of the deployment that the gateway means")]


def _card(pair: ServedPair) -> ModelCard:
    return ModelCard(
        id=pair.name,
        created=pair.loaded_at,
        base_draft=pair.base_draft,
        pack=pair.pack,
        max_model_len=pair.max_model_len,
    )


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatRequest, http: Request, models: ModelsDep, uid: Uid = None) -> Response:
    """Answer a conversation."""
    pair = models.pair(body.model, uid)
    models.record_prompt(pair, body)
    return await respond(pair, body, http, timeout_s=models.request_timeout_s)


@router.post("/v1/completions", response_model=None)
async def complete(body: CompletionRequest, http: Request, models: ModelsDep, uid: Uid = None) -> Response:
    """Continue one prompt or several."""
    pair = models.pair(body.model, uid)
    models.record_prompt(pair, body)
    return await respond(pair, body, http, timeout_s=models.request_timeout_s)


@router.get("/v1/models")
async def list_models(models: ModelsDep) -> ModelList:
    """List the models that are served now."""
    return ModelList(data=[_card(pair) for pair in models.pairs()])


@router.get("/v1/models/{name}")
async def show_model(name: str, models: ModelsDep, uid: Uid = None) -> ModelCard:
    """Show one served model."""
    return _card(models.pair(name, uid))


@router.get("/internal/metrics")
async def show_metrics(models: ModelsDep) -> Response:
    """Show the sum over the group's replicas, whichever of them answers. This route is not reachable from outside."""
    return Response(GROUP_METRICS.dump_json(await models.metrics()), media_type="application/json")


@router.get("/health")
async def health() -> dict[str, str]:
    """Answer while the replica is alive."""
    return {"status": "ok"}
