"""Sends a directory as one tar archive, written while it is sent, so that it is never whole in memory or on disk."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from starlette.responses import StreamingResponse

_CHUNK_BYTES = 1 << 18
_BLOCK_BYTES = 512


def archive_of(directory: Path, name: str) -> StreamingResponse:
    """Send the regular files below a directory as a download, in an archive under a directory of the given name.

    Args:
        directory: Directory to send; its files must not change meanwhile, and published files never do.
        name: Name of the archive, safe as a part of a path.
    """
    headers = {"content-disposition": f'attachment; filename="{name}.tar"'}
    return StreamingResponse(_blocks(directory, name), media_type="application/x-tar", headers=headers)


def _blocks(directory: Path, name: str) -> Iterator[bytes]:
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        info = tarfile.TarInfo(f"{name}/{path.relative_to(directory).as_posix()}")
        status = path.stat()
        info.size, info.mtime, info.mode = status.st_size, int(status.st_mtime), 0o644
        yield info.tobuf(tarfile.PAX_FORMAT)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk
        yield b"\0" * (-info.size % _BLOCK_BYTES)
    yield b"\0" * (2 * _BLOCK_BYTES)  # the end of an archive
