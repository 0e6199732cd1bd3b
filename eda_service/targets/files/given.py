"""Directories of targets and adapters that were named by path: looked at again where a job or a replica reads them.

They are too large to copy at submit. Where the process works for a service (`EDA_LOCAL_ROOTS`), a directory that is
named beneath its roots may not lead out of them, nor into its home; one that is named elsewhere was not named by a
request and is the operator's own. Either way what its files were before they are read is compared with what they are
afterwards, so that an exchange in between is noticed. What is left is told in ADR 0023.
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
    """A directory as it was when it was looked at.

    Attributes:
        path: Without links.
        files: What its files were, by relative path.
        roots: What it was held against; None for the operator's own.
        param: The field that named it.
    """

    path: Path
    files: tuple[tuple[str, FileIdentity], ...]
    roots: Roots | None
    param: str

    def require_unchanged(self) -> None:
        """Check that the files are those that were looked at.

        Raises:
            ArtifactCorruptError: One was changed, exchanged, added or removed.
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
    """Look at a directory, and hold it against the roots of the service that this process works for.

    Raises:
        InputError: It is named beneath the roots and something in it leads out of them.
        TargetNotFoundError: It cannot be read.
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
