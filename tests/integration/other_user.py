"""What another user of the machine can do to a tree of files."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path

_NOBODY = 65534


def every_path(root: Path) -> list[Path]:
    """The directory and all that is in it, links left out: what they point to counts by itself."""
    found = [root, *(Path(base, name) for base, dirs, files in os.walk(root) for name in (*dirs, *files))]
    return [path for path in found if not path.is_symlink()]


def reachable(paths: Sequence[Path]) -> list[Path]:
    """Those that another user can read or write, by any name that he guesses.

    As root really as another user, in a child that has given up its own; else by the modes.
    """
    return _as_nobody(paths) if os.geteuid() == 0 else [path for path in paths if _by_mode(path)]


def _by_mode(path: Path) -> bool:
    if any(not parent.stat().st_mode & stat.S_IXOTH for parent in path.parents):
        return False
    return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))


def _as_nobody(paths: Sequence[Path]) -> list[Path]:
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        found = [str(path) for path in paths if os.access(path, os.R_OK) or os.access(path, os.W_OK)]
        with os.fdopen(sending, "w") as stream:
            json.dump(found, stream)
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return [Path(each) for each in json.loads(text)]
