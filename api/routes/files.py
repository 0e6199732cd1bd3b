"""`/v1/files`: prompt files, uploaded, listed and deleted (`client.files` of the `openai` package)."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import FileResponse

from api.auth import Caller
from api.files.files import PURPOSE, Files
from api.files.multipart import FormError, Part, read_parts
from api.files.schemas import UPLOAD_FORM, DeletedFileBody, FileBody, FileList
from api.routes.deps import FilesDep, ReaderDep, WriterDep
from eda_service.errors import InputError
from eda_service.jobstore import StoredFile

router = APIRouter(prefix="/v1/files", tags=["files"])

FileId = Annotated[str, Path(max_length=64, description="id of a file")]


@router.post("", openapi_extra=UPLOAD_FORM)
async def upload(request: Request, caller: WriterDep, files: FilesDep) -> FileBody:
    """Take a prompt file; it is read through as a job would read it. The same bytes under the same name are the file
    that is there already."""
    return FileBody.of(await _taken(request, caller, files))


@router.get("")
def page(
    caller: ReaderDep,
    files: FilesDep,
    limit: Annotated[int, Query(ge=1, le=10_000, description="at most this many")] = 100,
    after: Annotated[str | None, Query(max_length=64, description="id of the last file of the page before")] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="by the time at which they came")] = "desc",
    purpose: Annotated[str | None, Query(max_length=64, description="only files for this purpose")] = None,
) -> FileList:
    """Files, the newest first."""
    if purpose not in {None, PURPOSE}:
        return FileList(data=[], has_more=False, first_id=None, last_id=None)
    found, has_more = files.page(caller, limit=limit, after=after, newest_first=order == "desc")
    data = [FileBody.of(each) for each in found]
    return FileList(
        data=data,
        has_more=has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


@router.get("/{file_id}")
def get(file_id: FileId, caller: ReaderDep, files: FilesDep) -> FileBody:
    """One file."""
    return FileBody.of(files.get(file_id, caller))


@router.get("/{file_id}/content", response_class=FileResponse)
def content(file_id: FileId, caller: ReaderDep, files: FilesDep) -> FileResponse:
    """The bytes as they came."""
    found, path = files.content(file_id, caller)
    return FileResponse(path, media_type="application/octet-stream", filename=found.filename)


@router.delete("/{file_id}")
def delete(file_id: FileId, caller: WriterDep, files: FilesDep) -> DeletedFileBody:
    """Forget a file; refused while a live job was made from it."""
    return DeletedFileBody(id=files.delete(file_id, caller).id)


async def _taken(request: Request, caller: Caller, files: Files) -> StoredFile:
    """The file of a form; its purpose may stand before or behind it, and nothing is kept without."""
    parts = read_parts(request.headers.get("content-type", ""), request.stream())
    purposes: list[str] = []

    async def read_fields() -> Part | None:
        """Read up to the file, or to the end; returns the file."""
        async for part in parts:
            if part.name == "file":
                return part
            if part.name != "purpose" or part.filename is not None:
                name = part.name[:64]
                raise InputError(f"the form has a field {name!r}; it takes `file` and `purpose`", param=name)
            purposes.append(_purpose(await part.text()))
        return None

    async def read_rest() -> None:
        if await read_fields() is not None:
            raise FormError("the form has two files; send each in a form of its own", param="file")
        if not purposes:
            raise FormError(f"the form names no purpose; send `purpose` as {PURPOSE!r}", param="purpose")

    file = await read_fields()
    if file is None:
        raise FormError("the form has no file; send it as the field `file`", param="file")
    return await files.receive(file.filename or "", file.chunks(), caller, then=read_rest)


def _purpose(text: str) -> str:
    if text != PURPOSE:
        raise InputError(f"purpose is {text[:64]!r}; this service takes files for {PURPOSE!r} alone", param="purpose")
    return text
