"""The directory of one Ray node, which no other user can enter.

<temp>/eda-ray-xxxxxxxx/    0700: the only protection
    r/                      Ray's own temporary directory; Ray opens it and all below to everybody (0777)
    tmp/                    TMPDIR of the node's processes
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

_PREFIX = "eda-ray-"
_RAY, _TMP = "r", "tmp"
_LONGEST_RAY_DIR = 40  # Ray adds about 60 characters for its sockets and Unix allows 107
_LONGEST_BASE = _LONGEST_RAY_DIR - len(f"/{_PREFIX}xxxxxxxx/{_RAY}")
_LONGEST_TMP = 65  # Python's own sockets take 32 more
_SHORT = "/tmp"


class NodeDirectory:
    """A new private directory for one node; `remove` ends it.

    If the temporary directory's path is too long for Ray's sockets, it was probably chosen for its disk: files go to a
    private directory there, the sockets to `/tmp`.

    Attributes:
        path: Path of the private directory.
        ray: Temporary directory for Ray.
        env: TMPDIR of the node's processes, so that files of killed processes are removed with the directory.
    """

    def __init__(self) -> None:
        base = tempfile.gettempdir()
        self.path = _make(base)
        self.ray = self.path / _RAY
        self.ray.mkdir(mode=0o700)
        self.env = {}
        tmp = self.path / _TMP
        if str(self.path.parent) == base:
            tmp.mkdir(mode=0o700)
            self.env = {"TMPDIR": str(tmp)}
        elif len(base) <= _LONGEST_TMP - len(f"/{_PREFIX}xxxxxxxx"):
            self.env = {"TMPDIR": tempfile.mkdtemp(prefix=_PREFIX, dir=base)}
            tmp.symlink_to(self.env["TMPDIR"])

    def remove(self) -> None:
        """Remove the directory with its contents."""
        remove_node_directory(str(self.path))


def remove_node_directory(path: str) -> None:
    """Remove a node's directory; a path that does not look like one of ours is not touched."""
    if not Path(path).name.startswith(_PREFIX):
        return
    elsewhere = Path(path, _TMP)
    if elsewhere.is_symlink() and (target := elsewhere.readlink()).name.startswith(_PREFIX):
        shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)


def _make(base: str) -> Path:
    if len(base) <= _LONGEST_BASE:
        with contextlib.suppress(OSError):
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SHORT))
