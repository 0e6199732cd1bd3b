"""`/v1/pack-versions`: one version of a pack: all its numbers, beside another one, and away with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from api.packs import views as pack_views
from api.packs.schemas import ComparisonBody, DeletedPackBody, PackVersionDetail
from api.routes.deps import DeploymentsDep, LookerDep, PackRemovalDep, PacksDep, WriterDep
from eda_service.references import Alias, Reference

router = APIRouter(prefix="/v1/pack-versions", tags=["packs"])

_MAX_CHARACTERS = 128
Version = Annotated[
    str,
    Path(max_length=_MAX_CHARACTERS, description="name@3, name@latest or name@champion; a name: the pinned or newest"),
]


@router.get("/{name}")
def get(name: Version, caller: LookerDep, packs: PacksDep, deployments: DeploymentsDep) -> PackVersionDetail:
    """One version with all that it says of itself, and where it serves."""
    pack = packs.resolve(name, caller)
    return pack_views.version_detail(pack, packs, caller, deployments.seen(caller))


@router.get("/{name}/comparison")
def compare(
    name: Version,
    caller: LookerDep,
    packs: PacksDep,
    other: Annotated[
        str | None,
        Query(min_length=1, max_length=_MAX_CHARACTERS, description="likewise; left out: the champion of its name"),
    ] = None,
) -> ComparisonBody:
    """Two versions on the same prompts, where a measurement has both; else why they cannot be compared."""
    pack = packs.resolve(name, caller)
    beside = packs.resolve(other or str(Reference(pack.name, Alias.CHAMPION)), caller)
    return pack_views.comparison(pack, beside, packs, caller)


@router.delete("/{name}")
def delete(name: Version, caller: WriterDep, removal: PackRemovalDep) -> DeletedPackBody:
    """Remove a version; refused while a deployment, a live job or a pin uses it."""
    return DeletedPackBody(id=removal.remove(name, caller))
