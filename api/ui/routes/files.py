"""Pages of uploaded prompt files: upload, list, download, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.files.files import Files
from api.routes.deps import FilesDep
from api.ui.access import FormDep, ReaderDep, Visitor, WriterDep
from api.ui.rendering import go, render
from api.ui.uploads import form_with_file
from eda_service.errors import InputError
from eda_service.jobstore import StoredFile

router = APIRouter(prefix="/files")

_PAGE = 50

FileId = Annotated[str, Path(max_length=64)]


@router.get("")
def page(
    request: Request,
    visitor: ReaderDep,
    files: FilesDep,
    after: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """Show files, newest first, and a form for an upload."""
    return _page(request, visitor, files, after=after)


@router.post("")
async def upload(request: Request, visitor: WriterDep, files: FilesDep) -> Response:
    """Store an uploaded file."""
    _, file, refused = await form_with_file(request, visitor, files)
    if file is None:
        failure = "Choose a file first." if refused is None else refused.message
        return await run_in_threadpool(_page, request, visitor, files, failure=failure, status=400)
    return go(f"/files#{file.id}")


@router.get("/{file_id}/content")
def content(file_id: FileId, visitor: ReaderDep, files: FilesDep) -> Response:
    """Send the file's bytes, unchanged, as a download."""
    found, path = files.content(file_id, visitor.caller)
    return FileResponse(path, media_type="application/octet-stream", filename=found.filename)


@router.post("/{file_id}/delete")
def delete(request: Request, file_id: FileId, visitor: WriterDep, files: FilesDep, _form: FormDep) -> Response:
    """Delete a file."""
    files.delete(file_id, visitor.caller)
    return go("/files")


def _page(
    request: Request,
    visitor: Visitor,
    files: Files,
    *,
    after: str | None = None,
    failure: str | None = None,
    status: int = 200,
) -> Response:
    found: list[StoredFile] = []
    has_more = False
    try:
        found, has_more = files.page(visitor.caller, limit=_PAGE, after=after)
    except InputError as error:  # the last file of the page before is gone by now
        failure, status = error.message, 404
    return render(
        request, "files.html", visitor, status=status, files=found, has_more=has_more, after=after, failure=failure
    )
