"""`/v1/packs`: published packs, what they measured, and which version is the champion."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.deployments import views
from api.deployments.schemas import ChampionRequest, PackBody, PackList
from api.routes.deps import LookerDep, PacksDep, WriterDep
from eda_service.names import MAX_NAME_CHARACTERS

router = APIRouter(prefix="/v1/packs", tags=["packs"])

Name = Annotated[str, Path(max_length=MAX_NAME_CHARACTERS, description="name of the pack, without a version")]
Limit = Annotated[int, Query(ge=1, le=100, description="at most this many")]


@router.get("")
def page(
    caller: LookerDep,
    packs: PacksDep,
    limit: Limit = 20,
    after: Annotated[
        str | None, Query(max_length=MAX_NAME_CHARACTERS, description="last name of the page before")
    ] = None,
) -> PackList:
    """Packs by name."""
    names = [name for name in packs.names(caller) if after is None or name > after]
    data = [views.pack_body(name, packs.versions(name, caller), packs, caller) for name in names[:limit]]
    return PackList(
        data=data,
        has_more=len(names) > limit,
        first_id=data[0].name if data else None,
        last_id=data[-1].name if data else None,
    )


@router.get("/{name}")
def get(name: Name, caller: LookerDep, packs: PacksDep) -> PackBody:
    """One pack with its versions."""
    return views.pack_body(name, packs.versions(name, caller), packs, caller)


@router.put("/{name}/champion")
def pin_champion(name: Name, body: ChampionRequest, caller: WriterDep, packs: PacksDep) -> PackBody:
    """Say which version `name@champion` is; deployments keep what they have until they are changed."""
    packs.pin(name, body.version, caller)
    return views.pack_body(name, packs.versions(name, caller), packs, caller)
