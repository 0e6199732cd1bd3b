"""The operations on uploaded files as values, once for both clients."""

from __future__ import annotations

from pathlib import PurePath
from typing import BinaryIO

from eda_service.client.answers.answers import Answer, Page
from eda_service.client.calls.calls import Call, given, one, page_of
from eda_service.errors import InputError
from eda_service.ids import is_file_id

_ROOT = "/v1/files"
PURPOSE = "fine-tune"


class UploadedFile(Answer):
    """A prompt file at the service; its `id` is what a job names as `dataset.source`."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str = PURPOSE
    sha256: str = ""
    num_prompts: int = 0
    num_skipped: int = 0


def upload(stream: BinaryIO, filename: str) -> Call[UploadedFile]:
    """Send a file. The service knows the same bytes under the same name again, so the call may be repeated."""
    form = {"purpose": PURPOSE}
    name = PurePath(filename).name
    return Call("POST", _ROOT, one(UploadedFile), form=form, file=(name, stream), repeatable=True)


def get(file_id: str) -> Call[UploadedFile]:
    """One file."""
    return Call("GET", _path(file_id), one(UploadedFile), repeatable=True)


def page(*, limit: int, after: str | None) -> Call[Page[UploadedFile]]:
    """Files, the newest first."""
    return Call("GET", _ROOT, page_of(UploadedFile), params=given(limit=limit, after=after), repeatable=True)


def content(file_id: str) -> Call[bytes]:
    """The bytes as they were sent."""
    return Call("GET", f"{_path(file_id)}/content", bytes, repeatable=True, is_binary=True)


def delete(file_id: str) -> Call[None]:
    """Forget a file."""
    return Call("DELETE", _path(file_id), lambda _: None)


def _path(file_id: str) -> str:
    if not is_file_id(file_id):
        raise InputError(f"{file_id[:64]!r} is no file id; `eda data ls` shows them", param="file_id")
    return f"{_ROOT}/{file_id}"
