"""Finding the directory of a draft that a user names: pinned to a commit, and checked against the allowed roots.

The rules are those of targets, with one difference: `pytorch_model.bin` is accepted, because the oldest drafts have
nothing else. It is fetched only if there is no safetensors file, and read only by the dialects' converter.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eda_service.drafts.hub_files import PICKLED, SAFE, list_files, require_room
from eda_service.errors import DraftSourceMissingError
from eda_service.names import is_model_id
from eda_service.targets.files.given import GivenDirectory, look_at
from eda_service.targets.files.resolve import HUB_TIMEOUT_S

PARAM = "source"


@dataclass(frozen=True)
class DraftSource:
    """The place of a draft's files.

    Attributes:
        directory: Directory on this machine.
        label: Name in manifests: its path, or id@commit on the hub.
        given: Identity of a directory that was named by path, at the time it was checked.
    """

    directory: Path
    label: str
    given: GivenDirectory | None = None

    def require_unchanged(self) -> None:
        """Check, after reading, that the files were not replaced meanwhile.

        Raises:
            ArtifactCorruptError: The files were replaced.
        """
        if self.given is not None:
            self.given.require_unchanged()


def is_pickled_draft(name: str) -> bool:
    """Whether a file's name is one of those in which the oldest drafts have their weights."""
    return name.startswith("pytorch_model") and name.endswith(".bin")


def find_source(source: str, revision: str | None = None, *, work_dir: Path | None = None) -> DraftSource:
    """Find a draft's files.

    Args:
        source: A directory, or an id on the model hub.
        revision: Branch, tag or commit on the hub.
        work_dir: Directory in which the draft will be staged; files of the hub are fetched only if both copies fit.

    Raises:
        DraftSourceMissingError: The directory or id does not exist, or the hub cannot be asked.
        InsufficientStorageError: The files of the hub do not fit on the disk.
        DraftIncompatibleError: The pickled weights on the hub are larger than the limit.
        InputError: A directory that a request named leads out of the allowed roots.
    """
    if is_model_id(source):
        directory = _from_hub(source, revision, work_dir)
        return DraftSource(directory, f"{source}@{directory.name}")
    if revision is not None:
        raise DraftSourceMissingError(
            f"revision is {revision[:64]!r}, but of a directory there is one; leave it out", param="revision"
        )
    try:
        is_directory = Path(source).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise DraftSourceMissingError(f"{source[:128]!r} is no directory here: {error}", param=PARAM) from error
    if not is_directory:
        raise DraftSourceMissingError(
            f"{source[:128]!r} is no directory here and no id of the model hub (owner/name); name the directory that "
            "holds the draft's config.json",
            param=PARAM,
        )
    given = look_at(Path(source).expanduser(), param=PARAM)
    return DraftSource(given.path, str(given.path), given)


def _from_hub(name: str, revision: str | None, work_dir: Path | None) -> Path:
    """Fetch the files of a draft; the commit is the last part of the directory's path."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        listed = list_files(name, revision)
        if listed is not None:
            require_room(listed, work_dir)
        for patterns in ([*SAFE], [*PICKLED]) if listed is None else (listed.patterns,):
            path = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, etag_timeout=HUB_TIMEOUT_S))
            if any(path.glob("*.safetensors")):
                break
    except RepositoryNotFoundError as error:
        raise DraftSourceMissingError(
            f"the model hub has no {name!r}, or your token may not read it; check the name", param=PARAM
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise DraftSourceMissingError(
            f"{name!r} is not in the hub's cache here, and the model hub could not be reached ({reason}); check the "
            "name and the network, or name a directory",
            param=PARAM,
        ) from error
    return path
