"""A pack for another engine: what it can be exported to, exports that were made, and their files to download."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from api.packs.exports import KEPT_S, Exports
from api.packs.packs import PackService
from api.routes.deps import ExportsDep, FeedDep, JobId, KeysDep, PacksDep
from api.ui import streams
from api.ui.access import FormDep, LookerDep, ReaderDep, Visitor, WriterDep
from api.ui.archive import archive_of
from api.ui.forms import export_of
from api.ui.rendering import go, part, render
from eda_service.errors import InputError, NotFoundError, ResourceError
from eda_service.ids import ulid
from eda_service.names import MAX_NAME_CHARACTERS

router = APIRouter()

_FIELDS = ("choice", "num_draft_tokens", "dialect")
_SHOWN = 10
_VERSIONS = 50

PackName = Annotated[str, Path(max_length=MAX_NAME_CHARACTERS)]
Version = Annotated[str, Query(pattern=r"^([0-9]{1,9}|latest|champion)$")]


@router.get("/packs/{name}/export")
def choose(
    request: Request,
    name: PackName,
    visitor: LookerDep,
    packs: PacksDep,
    exports: ExportsDep,
    version: Version = "latest",
) -> Response:
    """Engines and forms, those that are refused with the reason; below them the newest exports of this pack."""
    return _page(request, f"{name}@{version}", visitor, packs, exports)


@router.post("/packs/{name}/export")
def start(
    request: Request, name: PackName, visitor: WriterDep, packs: PacksDep, exports: ExportsDep, form: FormDep
) -> Response:
    """Queue an export; the same page shows how it goes."""
    reference = f"{name}@{form.get('version', '')}"
    try:
        exports.create(export_of(reference, form), visitor.caller, form.get("key") or None)
    except NotFoundError:
        raise
    except (InputError, ResourceError) as error:
        return _page(request, reference, visitor, packs, exports, form=form, failure=error.message, status=400)
    return go(f"/packs/{name}/export?version={form['version']}#made")


@router.get("/packs/{name}/export/stream")
async def stream(name: PackName, visitor: ReaderDep, exports: ExportsDep, feed: FeedDep, keys: KeysDep) -> Response:
    """The exports of a pack, until all have ended."""

    def look() -> streams.Look:
        jobs = exports.of_pack(name, visitor.caller, _SHOWN)
        shown = part("_exports.html", "made", [exports.body(job) for job in jobs])
        return streams.Look({"exports": shown}, is_over=all(job.is_terminal for job in jobs))

    return await streams.answer(feed, keys, visitor, look)


@router.get("/exports/{job_id}.tar")
def download(job_id: JobId, visitor: ReaderDep, exports: ExportsDep) -> Response:
    """The files of an export as one archive."""
    found = exports.archive(exports.get(job_id, visitor.caller))
    return archive_of(found.directory, found.name)


def _page(
    request: Request,
    reference: str,
    visitor: Visitor,
    packs: PackService,
    exports: Exports,
    *,
    form: dict[str, str] | None = None,
    failure: str | None = None,
    status: int = 200,
) -> Response:
    pack, offers = exports.offers(reference, visitor.caller)
    versions = [each.version for each in packs.versions(pack.name, visitor.caller)]
    jobs = exports.of_pack(pack.name, visitor.caller, _SHOWN) if visitor.may("jobs:read") else []
    return render(
        request,
        "export.html",
        visitor,
        status=status,
        pack=pack,
        versions=versions[-_VERSIONS:],
        offers=offers,
        dialects=sorted({dialect for each in offers for dialect in each.dialects if each.refused is None}),
        made=[exports.body(job) for job in jobs],
        is_live=any(not job.is_terminal for job in jobs),
        kept_hours=KEPT_S // 3600,
        form={field: (form or {}).get(field, "") for field in _FIELDS},
        failure=failure,
        key=f"page-{ulid()}",
    )
