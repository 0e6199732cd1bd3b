"""Directories of targets and adapters named by path; they are checked again where a job or a replica reads them.

They are too large to copy at submit. If the process works for a service (`EDA_LOCAL_ROOTS`), a directory beneath its
roots may not lead out of them, nor into its home; a directory elsewhere was not named by a request and is the
operator's own. In both cases the state of its files before reading is compared with the state afterwards, so that a
replacement in between is noticed. The remaining risk is described in ADR 0023.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from eda_service.errors import ArtifactCorruptError, InputError, TargetNotFoundError
from eda_service.storage.inputs.allowed import current_roots
from eda_service.storage.inputs.beneath import FileIdentity, OutsideError, Roots


@dataclass(frozen=True)
class GivenDirectory:
    """A directory and its state at the time it was checked.

    Attributes:
        path: Path without links.
        files: Identity of each file, by relative path.
        roots: Allowed roots that it was checked against; None for the operator's own directory.
        param: Field that named it.
    """

    path: Path
    files: tuple[tuple[str, FileIdentity], ...]
    roots: Roots | None
    param: str

    def require_unchanged(self) -> None:
        """Check that the files are the same as before.

        Raises:
            ArtifactCorruptError: A file was changed, replaced, added or removed.
        """
        now = dict(_files(self.path, self.roots, self.param)[1])
        before = dict(self.files)
        changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
        if changed:
            raise ArtifactCorruptError(
                f"{self.path} was changed while it was read ({', '.join(changed[:3])}); let it be and try again",
                param=self.param,
            )


def look_at(path: Path, *, param: str) -> GivenDirectory:
    """Record the state of a directory, and check it against the roots of the service that this process works for.

    Raises:
        InputError: The directory is beneath the roots and something in it leads out of them.
        TargetNotFoundError: The directory cannot be read.
    """
    roots = current_roots()
    written = os.path.abspath(path)
    if roots is not None and not roots.names(written):
        roots = None
    real, files = _files(Path(written), roots, param)
    return GivenDirectory(real, tuple(sorted(files.items())), roots, param)


def _files(path: Path, roots: Roots | None, param: str) -> tuple[Path, dict[str, FileIdentity]]:
    try:
        if roots is not None:
            return roots.files(str(path))
        found = {".": path.stat(), **{each.name: each.stat() for each in os.scandir(path) if each.is_file()}}
        return path.resolve(), {name: FileIdentity.of(status) for name, status in found.items()}
    except OutsideError as error:
        raise InputError(
            f"{param} leads out of the allowed roots ({error.entry[:64] or 'the directory itself'}); copy the files "
            "there instead",
            param=param,
        ) from None
    except OSError as error:
        raise TargetNotFoundError(f"{path} cannot be read: {error.strerror}", param=param) from error
