"""Forms of pages that hold a file: the token is read first, the file is streamed to the uploads."""

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
    """Read the fields of a form, the file sent with it, and the error if the file was refused.

    No field is used before the token, which is the first one. If the file is refused, the other fields are still
    returned.

    Raises:
        FormTokenError: The first field is not the token of the session.
        InputError: The body is not a form, a field is too long, or two files were sent.
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
    """Read fields up to a file that the user has chosen; browsers send a file without a name if none was chosen."""
    async for part in parts:
        if part.filename:
            return part
        if part.filename is None:
            fields[part.name[:64]] = (await part.text())[:_MAX_CHARACTERS]
    return None
