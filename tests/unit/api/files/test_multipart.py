"""Forms with files, cut into pieces at every place: what is read does not depend on how it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from api.files.multipart import MAX_FIELD_BYTES, MAX_PARTS, FormError, read_parts

TYPE = "multipart/form-data; boundary=xyz"
FILE = bytes(range(256)) + b"\r\n--xy\r\n--xyz-not\r\n" * 3 + b"\r\n-"


def written_by_httpx(**more: str) -> tuple[str, bytes]:
    """As a real client writes a form: an oracle that knows nothing of the reader."""
    request = httpx.Request(
        "POST", "http://x/", data={"purpose": "fine-tune", **more}, files={"file": ('ä".jsonl', FILE)}
    )
    return request.headers["content-type"], request.read()


def read(kind: str, body: bytes, size: int) -> list[tuple[str, str | None, bytes]]:
    async def pieces() -> AsyncIterator[bytes]:
        for place in range(0, len(body), size):
            yield body[place : place + size]

    async def all_of_it() -> list[tuple[str, str | None, bytes]]:
        return [
            (part.name, part.filename, b"".join([chunk async for chunk in part.chunks()]))
            async for part in read_parts(kind, pieces())
        ]

    return asyncio.run(all_of_it())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_form_is_read_as_it_was_written_however_it_arrives(size: int) -> None:
    kind, body = written_by_httpx(note="")
    assert read(kind, body, size) == [
        ("purpose", None, b"fine-tune"),
        ("note", None, b""),
        ("file", 'ä".jsonl', FILE),
    ]


def test_parts_that_nobody_reads_are_passed_over() -> None:
    kind, body = written_by_httpx(note="x" * 5000)

    async def names() -> list[str]:
        async def pieces() -> AsyncIterator[bytes]:
            yield body

        return [part.name async for part in read_parts(kind, pieces())]

    assert asyncio.run(names()) == ["purpose", "note", "file"]


def part(name: str, value: bytes = b"v", more: str = "") -> bytes:
    return f'--xyz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


END = b"--xyz--\r\n"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('; filename="../../etc/passwd"', "passwd"),
        ('; filename="C:\\dir\\rows.jsonl"', "rows.jsonl"),
        ("; filename=\"a\"; filename*=UTF-8''%e2%82%ac.jsonl", "€.jsonl"),
        ('; filename="a%0D%0Ab"', "a  b"),
        ('; filename="' + "n" * 400 + '"', "n" * 255),
        ('; filename=""', ""),
    ],
)
def test_a_name_is_the_last_part_of_a_path_in_characters_that_can_be_shown(given: str, kept: str) -> None:
    assert read(TYPE, part("file", more=given) + END, 50) == [("file", kept, b"v")]


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("application/json", b"{}", "multipart/form-data"),
        ("multipart/form-data", b"", "with a boundary"),
        (TYPE, b"", "ends before its last boundary"),
        (TYPE, part("a"), "ends before its last boundary"),
        (TYPE, b"nothing of the kind", "ends before"),
        (TYPE, b"--xyz\r\nX: y\r\n\r\nv\r\n" + END, "no `content-disposition"),
        (TYPE, b"--xyz\r\nContent-Disposition: form-data\r\n\r\nv\r\n" + END, "no `content-disposition"),
        (TYPE, b"--xyz\r\n" + b"x" * 20_000, "too long"),
        (TYPE, part("a") * (MAX_PARTS + 1) + END, "more than 64 parts"),
    ],
)
def test_what_is_no_form_is_refused(kind: str, body: bytes, said: str) -> None:
    with pytest.raises(FormError, match=said):
        read(kind, body, 1000)


@pytest.mark.parametrize(("value", "said"), [(b"x" * (MAX_FIELD_BYTES + 1), "longer than"), (b"\xff", "no UTF-8")])
def test_a_field_is_bounded_text(value: bytes, said: str) -> None:
    async def text() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield part("a", value) + END

        async for each in read_parts(TYPE, pieces()):
            await each.text()

    with pytest.raises(FormError, match=said) as refused:
        asyncio.run(text())
    assert refused.value.param == "a"
