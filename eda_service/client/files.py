"""`client.files`, for both clients: prompt files that lie where the client is, sent to where the service is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from eda_service.client.answers.answers import Page
from eda_service.client.calls import file_calls as calls
from eda_service.client.calls.file_calls import UploadedFile
from eda_service.client.deployments import AsyncSend, Send
from eda_service.client.walking import every, every_async


class Files:
    """The files resource.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def upload(self, path: Path | str, *, filename: str | None = None) -> UploadedFile:
        """Send a prompt file; the same bytes under the same name are the file that is there already.

        Args:
            path: The file here.
            filename: As the service shall call it; default: the path's last part.

        Raises:
            OSError: It cannot be read.
        """
        with Path(path).open("rb") as stream:
            return self._send(calls.upload(stream, filename or Path(path).name))

    def get(self, file_id: str) -> UploadedFile:
        """One file."""
        return self._send(calls.get(file_id))

    def page(self, *, limit: int = 20, after: str | None = None) -> Page[UploadedFile]:
        """One page of files, newest first."""
        return self._send(calls.page(limit=limit, after=after))

    def iterate(self, *, page_size: int = 100) -> Iterator[UploadedFile]:
        """Every file, page after page."""
        yield from every(lambda after: self.page(limit=page_size, after=after))

    def content(self, file_id: str) -> bytes:
        """The bytes as they were sent."""
        return self._send(calls.content(file_id))

    def delete(self, file_id: str) -> None:
        """Forget a file; jobs that were made from it have a copy."""
        self._send(calls.delete(file_id))


class AsyncFiles:
    """`Files`, awaited.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: AsyncSend) -> None:
        self._send = send

    async def upload(self, path: Path | str, *, filename: str | None = None) -> UploadedFile:
        """Send a prompt file; the same bytes under the same name are the file that is there already.

        Args:
            path: The file here.
            filename: As the service shall call it; default: the path's last part.

        Raises:
            OSError: It cannot be read.
        """
        with Path(path).open("rb") as stream:
            return await self._send(calls.upload(stream, filename or Path(path).name))

    async def get(self, file_id: str) -> UploadedFile:
        """One file."""
        return await self._send(calls.get(file_id))

    async def page(self, *, limit: int = 20, after: str | None = None) -> Page[UploadedFile]:
        """One page of files, newest first."""
        return await self._send(calls.page(limit=limit, after=after))

    async def iterate(self, *, page_size: int = 100) -> AsyncIterator[UploadedFile]:
        """Every file, page after page."""
        async for each in every_async(lambda after: self.page(limit=page_size, after=after)):
            yield each

    async def content(self, file_id: str) -> bytes:
        """The bytes as they were sent."""
        return await self._send(calls.content(file_id))

    async def delete(self, file_id: str) -> None:
        """Forget a file; jobs that were made from it have a copy."""
        await self._send(calls.delete(file_id))
