"""Pages of published packs and their measurements."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from api.deployments import views
from api.deployments.schemas import DeploymentChange, DeploymentRequest
from api.packs import views as pack_views
from api.packs.schemas import ComparisonBody
from api.routes.deps import DeploymentsDep, DirectoryDep, PackRemovalDep, PacksDep
from api.ui.access import FormDep, LookerDep, WriterDep
from api.ui.archive import archive_of
from api.ui.forms import made, whole
from api.ui.rendering import go, render, service_url
from api.ui.serving_charts import over_versions
from api.ui.snippets import asking, serving
from eda_service.errors import NotFoundError
from eda_service.names import MAX_NAME_CHARACTERS

router = APIRouter(prefix="/packs")

_PAGE = 20
_SHOWN = 5
_VERSIONS = 50
_TARGET = ("model", "adapter", "revision", "dtype")

Version = Annotated[str, Path(pattern=r"^([0-9]{1,9}|latest|champion)$")]
PackName = Annotated[str, Path(max_length=MAX_NAME_CHARACTERS)]


@router.get("")
def page(
    request: Request,
    visitor: LookerDep,
    packs: PacksDep,
    after: Annotated[str | None, Query(max_length=MAX_NAME_CHARACTERS)] = None,
) -> Response:
    """Show packs by name, with their newest versions."""
    names = [name for name in packs.names(visitor.caller) if after is None or name > after]
    found, counts = [], {}
    for name in names[:_PAGE]:
        versions = packs.versions(name, visitor.caller)
        found.append(views.pack_body(name, versions, packs, visitor.caller, shown=versions[-_SHOWN:]))
        counts[name] = len(versions)
    return render(request, "packs.html", visitor, packs=found, counts=counts, has_more=len(names) > _PAGE, after=after)


@router.get("/{name}")
def one(
    request: Request,
    name: PackName,
    visitor: LookerDep,
    packs: PacksDep,
    directory: DirectoryDep,
    before: Annotated[int | None, Query(ge=1, le=1 << 31)] = None,
    compare: Annotated[int | None, Query(ge=1, le=1 << 31)] = None,
    beside: Annotated[int | None, Query(ge=1, le=1 << 31)] = None,
) -> Response:
    """Show one pack: acceptance over its versions, its deployments, example requests, and two versions compared."""
    versions = packs.versions(name, visitor.caller)
    older = [each for each in versions if before is None or each.version < before]
    pack = views.pack_body(name, versions, packs, visitor.caller, shown=older[-_VERSIONS:])
    served_by = [
        each.name
        for each in directory.deployments(visitor.caller)
        if each.pack is not None and each.pack.partition("@")[0] == name
    ]

    def compared(version: int, other: int) -> ComparisonBody:
        first, second = (packs.resolve(f"{name}@{each}", visitor.caller) for each in (version, other))
        return pack_views.comparison(first, second, packs, visitor.caller)

    url, needs_key = service_url(request), not visitor.is_open
    return render(
        request,
        "pack.html",
        visitor,
        pack=pack,
        chart=over_versions(versions),
        has_more=len(older) > _VERSIONS,
        before=before,
        served_by=served_by,
        comparison=None if compare is None or beside is None else compared(compare, beside),
        snippets=asking(url, served_by[0], needs_key=needs_key)
        if served_by
        else [piece for each in pack.versions[:1] for piece in serving(url, each, needs_key=needs_key)],
    )


@router.post("/{name}/deploy")
def deploy(name: PackName, visitor: WriterDep, packs: PacksDep, deployments: DeploymentsDep, form: FormDep) -> Response:
    """Serve a version with the target that it was made for, in a new deployment or in the caller's of that name."""
    pack = packs.resolve(f"{name}@{form.get('version', '')}", visitor.caller)
    served_as = form.get("served_as", "").strip() or name
    force = bool(form.get("force"))
    change = made(
        DeploymentChange, {"pack": pack.reference, "force": force, "reason": "deployed from the page of packs"}
    )
    try:
        deployments.change(served_as, change, visitor.caller)
    except NotFoundError:
        target = {} if pack.manifest is None else dict(pack.manifest.config.get("target", {}))
        fields = {field: target[field] for field in _TARGET if target.get(field) is not None}
        wanted = {**fields, "name": served_as, "pack": pack.reference, "force": force}
        deployments.create(made(DeploymentRequest, wanted), visitor.caller)
    return go(f"/deployments/{served_as}")


@router.post("/{name}/champion")
def champion(name: PackName, visitor: WriterDep, packs: PacksDep, form: FormDep) -> Response:
    """Set the version that `name@champion` means; without one, the best measured version again."""
    version = form.get("version", "")
    packs.pin(name, whole("version", version) if version and not form.get("unpin") else None, visitor.caller)
    return go(f"/packs/{name}")


@router.post("/{name}/remove")
def remove(name: PackName, visitor: WriterDep, packs: PacksDep, removal: PackRemovalDep, form: FormDep) -> Response:
    """Remove a version that nothing uses."""
    removal.remove(f"{name}@{whole('version', form.get('version', ''))}", visitor.caller)
    return go(f"/packs/{name}" if name in packs.names(visitor.caller) else "/packs")


@router.get("/{name}/{version}.tar")
def download(name: PackName, version: Version, visitor: LookerDep, packs: PacksDep) -> Response:
    """Send the files of a version as one archive, unchanged."""
    pack = packs.resolve(f"{name}@{version}", visitor.caller)
    return archive_of(packs.directory(pack), f"{pack.name}-{pack.version}")
