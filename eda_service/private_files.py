"""Protection of the service's files from other users of the machine: a umask, and a home that only its owner can enter.

A umask applies to a whole process and to all it starts, so only the service's own processes set it. Commands that write
files for the user (an export, a report) keep the user's umask.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from eda_service.errors import InputError

logger = logging.getLogger(__name__)

_OTHERS = 0o077
_PRIVATE_DIR = 0o700


def keep_private() -> None:
    """Set the umask: no file that this process or a child of it makes from now on can be read or written by another
    user.
    """
    os.umask(_OTHERS)


def private_home(home: Path) -> Path:
    """Make a state root that only its owner can enter, or restrict an existing one to its owner and log that once.

    A volume that belongs to another user, as Kubernetes mounts it with a group, is left as it is.

    Raises:
        InputError: The directory cannot be made, or the path is no directory.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=_PRIVATE_DIR)
        mode = stat.S_IMODE(home.stat().st_mode)
    except OSError as error:
        raise InputError(
            f"the state root {home} cannot be made or entered ({error.strerror}); name another directory with --home "
            "or EDA_HOME",
            param="home",
        ) from error
    if not mode & _OTHERS:
        return home
    try:
        home.chmod(_PRIVATE_DIR)
    except PermissionError:
        logger.warning("%s is open to other users (mode %03o) and belongs to another one: it stays so", home, mode)
    else:
        logger.warning("%s was open to other users (mode %03o); now only its owner can enter it", home, mode)
    return home
