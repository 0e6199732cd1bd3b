"""Forms with a file (`multipart/form-data`, RFC 7578), read as they arrive: no more than a chunk of it is in memory.

Names, fields and the number of parts are bounded; a part with a file name is a file, whatever it says of its type.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote

from eda_service.errors import InputError

MAX_PARTS = 64
MAX_FIELD_BYTES = 1 << 20
_MAX_HEAD_BYTES = 8 << 10
_MAX_NAME_CHARACTERS = 255
_TYPE = re.compile(
    r'multipart/form-data\s*;.*\bboundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE | re.DOTALL
)
_DISPOSITION = re.compile(rb"content-disposition:\s*form-data\s*;(.*)", re.IGNORECASE)
_NAME = re.compile(rb';?\s*\bname="([^"]*)"')
_FILENAME = re.compile(rb';\s*filename="([^"]*)"')
_EXTENDED = re.compile(rb";\s*filename\*=utf-8''([^\s;]*)", re.IGNORECASE)
_ESCAPED = (("%22", '"'), ("%0D", " "), ("%0A", " "))


class FormError(InputError):
    """A form that cannot be read."""

    code = "form_invalid"


@dataclass(frozen=True)
class Part:
    """One part of a form, whose content is read before the next one is asked for.

    Attributes:
        name: Of the field.
        filename: As the sender calls the file; None: it is no file.
    """

    name: str
    filename: str | None
    _body: _Body

    def chunks(self) -> AsyncIterator[bytes]:
        """The content as it arrives."""
        return self._body.content()

    async def text(self) -> str:
        """The content of a field.

        Raises:
            FormError: It is too long, or no UTF-8.
        """
        found = bytearray()
        async for chunk in self.chunks():
            found += chunk
            if len(found) > MAX_FIELD_BYTES:
                raise FormError(
                    f"{self.name[:64]} is longer than {MAX_FIELD_BYTES} bytes; send it as a file", param=self.name[:64]
                )
        try:
            return found.decode("utf-8")
        except UnicodeDecodeError:
            raise FormError(f"{self.name[:64]} is no UTF-8 text", param=self.name[:64]) from None


async def read_parts(content_type: str, chunks: AsyncIterator[bytes]) -> AsyncIterator[Part]:
    """The parts of a form in their order.

    Args:
        content_type: Of the request.
        chunks: Its body.

    Raises:
        FormError: It is no such form, it ends too early, or it has more than `MAX_PARTS` parts.
    """
    found = _TYPE.match(content_type.strip())
    if found is None:
        raise FormError("a file is sent as multipart/form-data, with a boundary in its content-type")
    body = _Body(chunks, (found[1] or found[2]).encode("latin-1", "replace"))
    await body.skip()
    for _ in range(MAX_PARTS):
        if await body.is_over():
            return
        head = await body.until(b"\r\n\r\n", _MAX_HEAD_BYTES)
        name, filename = _names(head)
        yield Part(name, filename, body)
        await body.skip()
    if not await body.is_over():
        raise FormError(f"the form has more than {MAX_PARTS} parts; send a file and its purpose")


class _Body:
    """A body up to the next mark.

    Args:
        chunks: As they arrive.
        boundary: What parts the parts.
    """

    def __init__(self, chunks: AsyncIterator[bytes], boundary: bytes) -> None:
        self._chunks, self._mark = chunks, b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # the first mark stands at the beginning of the body, or after a line
        self._in_part = True

    async def content(self) -> AsyncIterator[bytes]:
        """The rest of the current part; none once it was read."""
        while self._in_part:
            place = self._buffer.find(self._mark)
            most = len(self._buffer) - len(self._mark) + 1 if place < 0 else place
            if place >= 0:
                self._in_part = False
            if most > 0:
                data = bytes(self._buffer[:most])
                del self._buffer[:most]
                yield data
            if place >= 0:
                del self._buffer[: len(self._mark)]
            else:
                await self._more()

    async def skip(self) -> None:
        """Go behind the current part."""
        async for _ in self.content():
            pass

    async def is_over(self) -> bool:
        """Whether the mark that was passed is the last one; else what follows is a part."""
        while len(self._buffer) < 2:  # two dashes, or the end of a line
            await self._more()
        if self._buffer.startswith(b"--"):
            return True
        await self.until(b"\r\n", 64)
        self._buffer[:0] = b"\r\n"  # a part without headers begins with an empty line
        self._in_part = True
        return False

    async def until(self, mark: bytes, most: int) -> bytes:
        """What stands before a mark, which is passed."""
        while (place := self._buffer.find(mark)) < 0:
            if len(self._buffer) > most:
                raise FormError("the head of a part of the form is too long, or the form is broken")
            await self._more()
        found = bytes(self._buffer[:place])
        del self._buffer[: place + len(mark)]
        return found

    async def _more(self) -> None:
        async for chunk in self._chunks:
            if chunk:
                self._buffer += chunk
                return
        raise FormError("the form ends before its last boundary; send it again")


def _names(head: bytes) -> tuple[str, str | None]:
    for line in head.split(b"\r\n"):
        found = _DISPOSITION.fullmatch(line.strip())
        if found is None:
            continue
        name = _NAME.search(found[1])
        if name is None:
            break
        plain, extended = _FILENAME.search(found[1]), _EXTENDED.search(found[1])
        if extended is not None:
            return _text(name[1]), _file_name(unquote(extended[1].decode("latin-1")))
        return _text(name[1]), None if plain is None else _file_name(_text(plain[1]))
    raise FormError("a part of the form has no `content-disposition: form-data` with a name")


def _text(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    for escaped, plain in _ESCAPED:  # as the HTML standard has browsers write them
        text = text.replace(escaped, plain)
    return text


def _file_name(text: str) -> str:
    """The last part of a path, in characters that can be shown."""
    last = re.split(r"[/\\]", text)[-1]
    return "".join(each if each.isprintable() else " " for each in last).strip()[:_MAX_NAME_CHARACTERS]
