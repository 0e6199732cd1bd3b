"""Routes of the OpenAI-compatible endpoint. Who answers comes from `Models`, which a Serve replica provides."""

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
    """What is served."""

    request_timeout_s: float

    def pair(self, name: str, uid: str | None) -> ServedPair:
        """The pair of a name, where it is the deployment's that is meant; None: whichever has the name now.

        Raises:
            ModelNotFoundError: There is none.
            ResourceError: It could not be loaded.
        """

    def pairs(self) -> Sequence[ServedPair]:
        """All of them."""

    def record_prompt(self, pair: ServedPair, request: GenerationRequest) -> None:
        """A request has come in."""

    async def metrics(self) -> GroupMetrics:
        """What all replicas of the group have done."""


async def replica() -> Any:
    """The Serve replica that this request has reached."""
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
    """Everything that is served now."""
    return ModelList(data=[_card(pair) for pair in models.pairs()])


@router.get("/v1/models/{name}")
async def show_model(name: str, models: ModelsDep, uid: Uid = None) -> ModelCard:
    """One served model."""
    return _card(models.pair(name, uid))


@router.get("/internal/metrics")
async def show_metrics(models: ModelsDep) -> Response:
    """The sum over the group's replicas, whichever of them is asked; not reachable from outside."""
    return Response(GROUP_METRICS.dump_json(await models.metrics()), media_type="application/json")


@router.get("/health")
async def health() -> dict[str, str]:
    """The replica answers."""
    return {"status": "ok"}
