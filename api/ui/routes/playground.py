"""The playground: one question to one or two deployments, with the accepted draft tokens of the answers marked."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.deps import DeploymentsDep, DirectoryDep, GatewayDep, LimitsDep
from api.errors import config_error
from api.schemas_deployments import DeploymentRequest
from api.ui.access import AskerDep, FormDep, WriterDep
from api.ui.rendering import go, render
from api.ui.sessions import COOKIE, Sessions
from eda_service.config.base import Config
from eda_service.errors import ConflictError
from eda_service.jobstore import Deployment
from eda_service.names import MAX_NAME_CHARACTERS

router = APIRouter(prefix="/playground")

_MAX_TOKENS = 1024
_SUFFIX = "-base"
_LABEL, _PLAYGROUND = "made-by", "playground"
_TARGET = ("model", "adapter", "revision", "dtype")


class Question(Config):
    """What the page's script sends."""

    model: str = Field(min_length=1, max_length=256)
    prompt: str = Field(min_length=1, max_length=20_000)
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    max_tokens: int = Field(160, ge=1, le=_MAX_TOKENS)

    def body(self) -> bytes:
        """The request to the endpoint."""
        return json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": self.prompt}],
                "temperature": self.temperature,
                "max_tokens": self.max_tokens,
                "stream": True,
                "stream_options": {"include_usage": True, "continuous_usage_stats": True, "draft_tokens": True},
            }
        ).encode()


@router.get("")
def page(
    request: Request,
    visitor: AskerDep,
    directory: DirectoryDep,
    left: Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)] = None,
    right: Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)] = None,
) -> Response:
    """The form and two empty answers."""
    found = directory.deployments(visitor.caller)
    first = _chosen(found, left) or next((each for each in found if each.pack), None) or next(iter(found), None)
    second = _chosen(found, right) or (None if first is None else _without_pack(found, first))
    return render(
        request,
        "playground.html",
        visitor,
        deployments=found,
        left=first,
        right=second,
        leftovers=[each.name for each in leftovers(found)],
        lacks_comparison=first is not None and bool(first.pack) and second is None,
        most_tokens=_MAX_TOKENS,
    )


@router.post("/compare")
def compare(visitor: WriterDep, deployments: DeploymentsDep, form: FormDep) -> Response:
    """Serve a deployment's target once more, under its name with `-base`, without the pack."""
    served = deployments.get(form.get("name", ""), visitor.caller)
    target = {field: served.target[field] for field in _TARGET if field in served.target}
    try:
        request = DeploymentRequest.model_validate(
            {
                **target,
                "name": served.name + _SUFFIX,
                "base_draft": served.base_draft,
                "labels": {_LABEL: _PLAYGROUND},
            }
        )
    except ValidationError as error:  # with the suffix the name may be too long
        raise config_error(error) from error
    made, _ = deployments.create(request, visitor.caller)
    return go(f"/playground?left={served.name}&right={made.name}")


@router.post("/remove")
def remove(visitor: WriterDep, deployments: DeploymentsDep, directory: DirectoryDep, form: FormDep) -> Response:
    """Stop serving what this page has made."""
    name = form.get("name", "")
    found = deployments.get(name, visitor.caller)
    if found not in leftovers(directory.deployments(visitor.caller)):
        raise ConflictError(
            f"{name} was not made by the playground, or was changed since; `eda deployments rm` removes any",
            param="name",
        )
    deployments.delete(name, visitor.caller)
    return go(f"/playground?left={name.removesuffix(_SUFFIX)}")


def leftovers(found: list[Deployment]) -> list[Deployment]:
    """Deployments that this page made to compare with. Those of earlier versions have no label that says so: they are
    known by their name, and by being, unchanged, another one without its pack.
    """
    others = {each.name: each for each in found}
    made = []
    for each in found:
        stem = others.get(each.name.removesuffix(_SUFFIX)) if each.name.endswith(_SUFFIX) else None
        if each.pack is not None or stem is None:
            continue
        is_alike = (each.target, each.base_draft, each.owner) == (stem.target, stem.base_draft, stem.owner)
        is_as_made = each.revision == 1 and not each.labels and not each.drift
        if each.labels.get(_LABEL) == _PLAYGROUND or (is_alike and is_as_made):
            made.append(each)
    return made


@router.post("/answer")
async def answer(
    request: Request,
    question: Question,
    visitor: AskerDep,
    gateway: GatewayDep,
    directory: DirectoryDep,
    limits: LimitsDep,
    token: Annotated[str, Header(alias="x-form-token", max_length=128)] = "",
) -> Response:
    """An answer as the endpoint streams it; the key's limits count."""
    sessions: Sessions = request.app.state.sessions
    sessions.require_form_token(sessions.open(request.cookies.get(COOKIE)), token)
    entry = await run_in_threadpool(directory.find, question.model, visitor.caller)
    release = limits.admit(visitor.caller)
    headers = {"content-type": "application/json", "x-request-id": request.state.request_id}
    try:
        return await gateway.send(
            "POST",
            "/v1/chat/completions",
            entry,
            visitor.caller,
            headers=headers,
            content=question.body(),
            ended=release,
        )
    except BaseException:
        release()
        raise


def _chosen(found: list[Deployment], name: str | None) -> Deployment | None:
    return next((each for each in found if each.name == name), None)


def _without_pack(found: list[Deployment], served: Deployment) -> Deployment | None:
    """Another deployment of the same target whose draft has no pack."""
    same = (each for each in found if each.target == served.target and each.name != served.name)
    return next((each for each in same if each.pack is None and each.base_draft == served.base_draft), None)
