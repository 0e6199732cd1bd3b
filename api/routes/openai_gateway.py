"""`/v1/chat/completions`, `/v1/completions`, `/v1/models`: passed on to Ray Serve, which listens behind this process.

Bytes are passed on as they come, so a stream stays a stream; a client that goes away closes the connection to Serve,
which frees the request's slot.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.deps import GatewayDep, InferDep

router = APIRouter(tags=["endpoint"])


@router.post("/v1/chat/completions", response_model=None)
@router.post("/v1/completions", response_model=None)
async def completions(request: Request, _caller: InferDep, gateway: GatewayDep) -> Response:
    """Answer a conversation or continue a prompt (OpenAI's `chat.completions.create`, `completions.create`)."""
    return await gateway.forward(request)


@router.get("/v1/models", response_model=None)
async def models(request: Request, _caller: InferDep, gateway: GatewayDep) -> Response:
    """What is served; empty while nothing is."""
    return await gateway.forward_models(request)


@router.get("/v1/models/{name}", response_model=None)
async def model(request: Request, _caller: InferDep, gateway: GatewayDep) -> Response:
    """One served pair."""
    return await gateway.forward(request)
