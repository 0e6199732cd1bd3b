"""Forms of pages that hold a file: their token first, the file streamed to where uploads lie, the rest as text."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request

from api.files.files import Files
from api.files.multipart import Part, read_parts
from api.services import services_of
from api.ui.access import Visitor
from api.ui.sessions import COOKIE
from eda_service.errors import InputError
from eda_service.jobstore import StoredFile

_MAX_CHARACTERS = 1 << 20


async def form_with_file(
    request: Request, visitor: Visitor, files: Files
) -> tuple[dict[str, str], StoredFile | None, InputError | None]:
    """The fields of a form, the file that came with it, and why the file was not taken.

    Nothing of the form is looked at before its token, which is its first field. A file that is refused does not lose
    what was typed beside it.

    Raises:
        FormTokenError: The first field is not the token of the session.
        InputError: No form, a field that is too long, or two files.
    """
    sessions = services_of(request).sessions
    parts = read_parts(request.headers.get("content-type", ""), request.stream())
    first = await anext(parts, None)
    given = await first.text() if first is not None and first.name == "token" and first.filename is None else ""
    sessions.require_form_token(sessions.open(request.cookies.get(COOKIE)), given)
    fields: dict[str, str] = {}

    async def next_file() -> Part | None:
        return await _to_the_file(parts, fields)

    async def rest() -> None:
        if await next_file() is not None:
            raise InputError("the form has two files; choose one", param="file")

    file = await next_file()
    if file is None:
        return fields, None, None
    try:
        return fields, await files.receive(file.filename or "", file.chunks(), visitor.caller, then=rest), None
    except InputError as error:
        await rest()
        return fields, None, error


async def _to_the_file(parts: AsyncIterator[Part], fields: dict[str, str]) -> Part | None:
    """Read fields up to a file that somebody has chosen; browsers send one without a name where nobody has."""
    async for part in parts:
        if part.filename:
            return part
        if part.filename is None:
            fields[part.name[:64]] = (await part.text())[:_MAX_CHARACTERS]
    return None
