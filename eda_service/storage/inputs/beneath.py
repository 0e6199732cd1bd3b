"""Opening files that a caller names: once, by descriptor, beneath the directories in which names are allowed.

A path is walked component by component (`openat` with `O_PATH | O_NOFOLLOW`), so that a component that is replaced
meanwhile cannot lead elsewhere. A symbolic link is followed only if its target lies beneath a root too. A path that
leaves the roots is refused before anything outside is read, so that no answer reveals what is there. No path beneath a
root may lead into a private directory: the service's home, its storage, `/proc`.

A file is opened for reading through its descriptor, as `eda_service.regular_files` explains.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from eda_service.regular_files import place, reopen, require_harmless

MAX_LINKS = 40
MAX_ENTRIES = 10_000
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ALWAYS_PRIVATE = Path("/proc")


class OutsideError(Exception):
    """A path, or a directory's entry named `entry`, leads out of the roots or into a private directory."""

    def __init__(self, entry: str = "") -> None:
        super().__init__(entry)
        self.entry = entry


@dataclass(frozen=True)
class FileIdentity:
    """One state of one file: a replaced or changed file has another identity."""

    device: int
    inode: int
    changed_ns: int
    size_bytes: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileIdentity:
        """Make the identity from the result of `stat`."""
        return cls(found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size)


@dataclass(frozen=True)
class Roots:
    """Directories beneath which files may be named.

    Attributes:
        allowed: Each root as it may be written, with its real directory: a root that is a link is followed once, here.
        private: Directories into which no path beneath a root may lead.
    """

    allowed: tuple[tuple[str, Path], ...]
    private: tuple[Path, ...]

    @classmethod
    def of(cls, allowed: Iterable[Path], private: Iterable[Path]) -> Roots:
        """Resolve directories; a root inside a private directory is dropped."""
        kept_apart = tuple(path.expanduser().resolve() for path in private)
        found: dict[str, Path] = {}
        for path in allowed:
            written = Path(os.path.abspath(path.expanduser()))
            real = written.resolve()
            if not any(real.is_relative_to(each) for each in kept_apart):
                found |= {str(written): real, str(real): real}
        outermost_first = sorted(found.items(), key=lambda each: len(each[1].parts))
        return cls(tuple(outermost_first), (*kept_apart, _ALWAYS_PRIVATE))

    @property
    def directories(self) -> tuple[Path, ...]:
        """The roots, with links resolved."""
        return tuple(dict.fromkeys(real for _, real in self.allowed))

    def names(self, path: str) -> bool:
        """Whether a path is written as one beneath a root; the file system is not read."""
        return _enter(self, path) is not None

    def open_file(self, path: str) -> tuple[BinaryIO, Path]:
        """Open a regular file for reading; return it with its path, links resolved.

        Raises:
            OutsideError: The file is not beneath a root.
            OSError: The file is not regular, or cannot be opened.
            ValueError: The path holds a NUL.
        """
        descriptor, real = _Walk(self).follow(path)
        try:
            return reopen(descriptor), real
        finally:
            os.close(descriptor)

    def files(self, directory: str) -> tuple[Path, dict[str, FileIdentity]]:
        """Return a directory's path, links resolved, and the entries of it and its subdirectories by relative path.

        The directory itself is `.`, and the names of subdirectories end in `/`: a directory that is renamed away and
        back has another time of change.

        Raises:
            OutsideError: The directory, or something in it, does not lie beneath a root.
            OSError: An entry is neither a file nor a directory, there are more than `MAX_ENTRIES` entries, or the
                directory cannot be read.
            ValueError: The path holds a NUL.
        """
        found: dict[str, FileIdentity] = {}
        seen: set[tuple[int, int]] = set()
        top, real, status = self._list(directory, seen)
        found["."] = FileIdentity.of(status)
        pending = deque(top)
        num_entries = 0
        while pending:
            name = pending.popleft()
            num_entries += 1
            if num_entries > MAX_ENTRIES:
                raise OSError(errno.EFBIG, f"it holds more than {MAX_ENTRIES} files")
            descriptor = self._entry(real, name)
            try:
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            if stat.S_ISDIR(status.st_mode):
                pending.extend(f"{name}/{each}" for each in self._list(f"{real}/{name}", seen)[0])
                name += "/"
            else:
                require_harmless(status)
            found[name] = FileIdentity.of(status)
        return real, found

    def _entry(self, directory: Path, name: str) -> int:
        try:
            return _Walk(self).follow(f"{directory}/{name}")[0]
        except OutsideError:
            raise OutsideError(name) from None

    def _list(self, directory: str, seen: set[tuple[int, int]]) -> tuple[list[str], Path, os.stat_result]:
        """List the names in a directory (empty if it is in `seen`); return them with its path, links resolved, and its
        status.
        """
        descriptor, real = _Walk(self).follow(directory)
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) in seen:
                return [], real, status
            seen.add((status.st_dev, status.st_ino))
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            listed = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return sorted(os.listdir(listed)), real, status
            finally:
                os.close(listed)
        finally:
            os.close(descriptor)


class _Walk:
    """The walk along one path, starting at a root.

    Args:
        roots: Roots that the walk must stay beneath.
    """

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._private = {found for path in roots.private if (found := place(path)) is not None}
        self._root = Path("/")
        self._descriptors: list[int] = []
        self._names: list[str] = []
        self._pending: deque[str] = deque()

    def follow(self, path: str) -> tuple[int, Path]:
        """Return an `O_PATH` descriptor of the end of a path, which the caller closes, and the path with links
        resolved.
        """
        num_links = 0
        try:
            self._start(path)
            while self._pending:
                part = self._pending.popleft()
                if part == "..":
                    self._up()
                    continue
                target = self._down(part)
                if target is not None:
                    num_links += 1
                    if num_links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    self._link(target)
            return self._descriptors.pop(), self._root.joinpath(*self._names)
        finally:
            self._close()

    def _start(self, path: str) -> None:
        entered = _enter(self._roots, path)
        if entered is None:
            raise OutsideError
        self._close()
        self._root, parts = entered
        self._pending = deque(parts)
        self._push(os.open(self._root, _LOOK | os.O_DIRECTORY))

    def _down(self, name: str) -> str | None:
        """Step into the entry of this name; for a link, return its text instead."""
        descriptor = os.open(name, _LOOK, dir_fd=self._descriptors[-1])
        if stat.S_ISLNK(os.fstat(descriptor).st_mode):
            try:
                return os.readlink("", dir_fd=descriptor)
            finally:
                os.close(descriptor)
        self._push(descriptor)
        self._names.append(name)
        return None

    def _push(self, descriptor: int) -> None:
        self._descriptors.append(descriptor)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) in self._private:
            raise OutsideError

    def _up(self) -> None:
        if self._names:
            self._names.pop()
            os.close(self._descriptors.pop())
            return
        self._start(posixpath.normpath(posixpath.join(self._root.parent, *self._pending)))

    def _link(self, target: str) -> None:
        if target.startswith("/"):
            self._start("/".join([target, *self._pending]))
        else:
            self._pending.extendleft(reversed(_parts(target)))

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
        self._names.clear()


def _enter(roots: Roots, path: str) -> tuple[Path, list[str]] | None:
    """Return the root that a path is written beneath, and the rest of the path; None for any other path."""
    if "\0" in path:
        raise ValueError("a path holds no NUL")
    parts = _parts(path)
    if not path.startswith("/"):
        return None
    for written, real in roots.allowed:
        above = _parts(written)
        if parts[: len(above)] == above:
            return real, parts[len(above) :]
    return None


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
