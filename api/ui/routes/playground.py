"""The playground page: one question to one or two deployments; the answers mark the accepted draft tokens."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.drafts.drafting import require_may_choose
from api.endpoint.protocol.requests import BASE_ALONE, NO_DRAFT
from api.routes.deps import DeploymentsDep, DirectoryDep, GatewayDep, LimitsDep
from api.services import services_of
from api.ui.access import AskerDep, FormDep, WriterDep
from api.ui.rendering import go, render
from api.ui.sessions import COOKIE
from eda_service.config.base import Config
from eda_service.config.job import EngineKind
from eda_service.errors import ConflictError
from eda_service.jobstore import Deployment
from eda_service.names import MAX_NAME_CHARACTERS
from eda_service.scopes import Scope

router = APIRouter(prefix="/playground")

_MAX_TOKENS = 1024
_SUFFIX = "-base"


class Question(Config):
    """The body that the page's script sends."""

    model: str = Field(min_length=1, max_length=256)
    prompt: str = Field(min_length=1, max_length=20_000)
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    max_tokens: int = Field(160, ge=1, le=_MAX_TOKENS)
    draft: str | None = Field(None, min_length=1, max_length=128)

    def body(self) -> bytes:
        """Return the request to the endpoint."""
        return json.dumps(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": self.prompt}],
                "temperature": self.temperature,
                "max_tokens": self.max_tokens,
                **({} if self.draft is None else {"draft": self.draft}),
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
    """Show the form and two empty answers."""
    found = directory.deployments(visitor.caller)
    first = _chosen(found, left) or next((each for each in found if each.pack), None) or next(iter(found), None)
    others = _others(found) if visitor.may(Scope.JOBS_WRITE) else []
    beside = next(((name, draft) for name, draft, _ in others if first is not None and name == first.name), None)
    return render(
        request,
        "playground.html",
        visitor,
        deployments=found,
        left=first,
        right=_chosen(found, right),
        others=others,
        beside=beside if right is None else None,
        leftovers=[each.name for each in leftovers(found)],
        most_tokens=_MAX_TOKENS,
    )


@router.post("/remove")
def remove(visitor: WriterDep, deployments: DeploymentsDep, directory: DirectoryDep, form: FormDep) -> Response:
    """Remove a deployment that this page made in earlier versions."""
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
    """List deployments that this page made in earlier versions for comparison. Each has a name of that form, and is an
    unchanged copy of another deployment without its pack.
    """
    others = {each.name: each for each in found}
    made = []
    for each in found:
        stem = others.get(each.name.removesuffix(_SUFFIX)) if each.name.endswith(_SUFFIX) else None
        if each.pack is not None or stem is None:
            continue
        is_alike = (each.target, each.base_draft, each.owner) == (stem.target, stem.base_draft, stem.owner)
        if is_alike and each.revision == 1 and not each.labels and not each.drift:
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
    """Stream an answer of the endpoint; the limits of the visitor's key apply."""
    sessions = services_of(request).sessions
    sessions.require_form_token(sessions.open(request.cookies.get(COOKIE)), token)
    entry = await run_in_threadpool(directory.find, question.model, visitor.caller)
    require_may_choose(question.draft, entry, visitor.caller, directory)
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


def _others(found: list[Deployment]) -> list[tuple[str, str, str]]:
    """List the drafts besides their own that deployments can be asked with: name, `draft` of a request, and words."""
    own = [each for each in found if each.engine_spec.kind is EngineKind.EDA and each.base_draft is not None]
    bases = [(each.name, BASE_ALONE, "without its pack") for each in own if each.pack is not None]
    return bases + [(each.name, NO_DRAFT, "without a draft") for each in own]
