"""`/v1/chat/completions`, `/v1/completions`, `/v1/models`: passed on to Ray Serve, which listens behind this process.

Bytes are passed on as they come, so a stream stays a stream; a client that goes away closes the connection to Serve,
which frees the request's slot.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.auth import Caller
from api.deployments.schemas import ModelBody, ModelsBody
from api.drafts.drafting import require_may_choose
from api.gateway.directory import Directory, Entry
from api.gateway.gateway import asked_of
from api.routes.deps import DirectoryDep, GatewayDep, InferDep, LimitsDep

router = APIRouter(tags=["endpoint"])

ModelName = Annotated[str, Path(max_length=256, description="a deployment's name")]


@router.post("/v1/chat/completions", response_model=None)
@router.post("/v1/completions", response_model=None)
async def completions(
    request: Request, caller: InferDep, gateway: GatewayDep, directory: DirectoryDep, limits: LimitsDep
) -> Response:
    """Answer a conversation or continue a prompt (OpenAI's `chat.completions.create`, `completions.create`)."""
    asked = asked_of(await request.body())
    entry = await _find(directory, asked.model, caller)
    require_may_choose(asked.draft, entry, caller, directory)
    release = limits.admit(caller)
    try:
        return await gateway.forward(request, entry, caller, ended=release)
    except BaseException:
        release()
        raise


@router.get("/v1/models")
def models(caller: InferDep, directory: DirectoryDep) -> ModelsBody:
    """Everything that is deployed for the caller, ready or not."""
    return ModelsBody(
        data=[
            ModelBody(id=each.name, created=each.created_at, base_draft=each.base_draft, pack=each.pack)
            for each in directory.deployments(caller)
        ]
    )


@router.get("/v1/models/{name}", response_model=None)
async def model(
    request: Request, name: ModelName, caller: InferDep, gateway: GatewayDep, directory: DirectoryDep
) -> Response:
    """One name, as its replica describes it."""
    return await gateway.forward(request, await _find(directory, name, caller), caller)


async def _find(directory: Directory, name: str, caller: Caller) -> Entry:
    entry = directory.known(name, caller)
    return entry if entry is not None else await run_in_threadpool(directory.find, name, caller)
