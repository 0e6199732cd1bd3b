"""A pack as a repository: model card, manifest and weights, into a directory or onto a hub.

README.md          the card
manifest.json      the pack's manifest, without names of this machine
pack.json, pack.safetensors
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eda_service.errors import EdaError, InputError
from eda_service.export.files.directory import published
from eda_service.export.repositories.pack_card import base_model_of, card, licence_of, shared
from eda_service.names import is_model_id
from eda_service.records import PackManifest
from eda_service.storage.files import write_json
from eda_service.storage.published.registry import find_pack, read_pack_manifest
from eda_service.storage.published.version_store import MANIFEST

CARD = "README.md"


class HubRefusedError(EdaError):
    """The model hub refused a pack."""

    code = "hub_refused"


@dataclass(frozen=True)
class Push:
    """A pack that is ready to be pushed.

    Attributes:
        directory: Directory of its files here, which were verified.
        manifest: Manifest in the form for other users.
        card: Text of README.md.
        to: Directory, or id on the hub.
    """

    directory: Path
    manifest: PackManifest
    card: str
    to: str

    @property
    def is_local(self) -> bool:
        """Whether the destination is a directory."""
        return is_directory(self.to)


def is_directory(to: str) -> bool:
    """Whether a destination is a directory rather than an id on the hub."""
    return to.startswith(("/", "./", "../", "~"))


def prepare(
    reference: str, to: str, *, licence: str | None = None, base_model: str | None = None, home: Path | None = None
) -> Push:
    """Read and verify a pack, and write its card.

    Args:
        reference: Pack as name@version; without a version the newest.
        to: Directory (with `/`, `./` or `~` before it), or owner/name on the hub.
        licence: Licence id of the hub; not needed for a pack over a shipped target.
        base_model: Hub id of its target, if the target was named by a path.
        home: Root of the registry.

    Raises:
        NotFoundError: The pack does not exist.
        ArtifactCorruptError: A file differs from its manifest.
        InputError: No licence is known, or the destination is neither a directory nor an id.
    """
    if not is_directory(to) and not (is_model_id(to) and "/" in to):
        raise InputError(
            f"{to[:96]!r} is no repository; write owner/name for one on the hub, ./name for a directory", param="repo"
        )
    if base_model is not None and not is_model_id(base_model):
        raise InputError(f"--base-model {base_model[:96]!r} is no id on the hub; write owner/name", param="base_model")
    directory = find_pack(reference, home)
    whole = read_pack_manifest(directory)
    manifest = shared(whole)
    text = card(manifest, repo=to, licence=licence_of(whole, licence), base_model=base_model_of(manifest, base_model))
    return Push(directory, manifest, text, to)


def push(made: Push, *, public: bool = False) -> str:
    """Write a directory, whole or not at all, or make one commit on the hub; return its address.

    Args:
        made: Pack to push.
        public: Whether a new repository on the hub is public; otherwise only its owner can see it.

    Raises:
        ConflictError: The directory is not empty.
        HubRefusedError: The hub refuses the pack.
    """
    if made.is_local:
        place = Path(os.path.expanduser(made.to)).absolute()
        with published(place, "repo") as staging:
            _write(made, staging)
        return str(place)
    return _upload(made, public)


def _write(made: Push, directory: Path) -> None:
    (directory / CARD).write_text(made.card, encoding="utf-8")
    write_json(directory / MANIFEST, made.manifest.model_dump(mode="json"))
    for entry in made.manifest.files:
        shutil.copyfile(made.directory / entry.path, directory / entry.path)


def _upload(made: Push, public: bool) -> str:
    import tempfile

    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    with tempfile.TemporaryDirectory(prefix="eda-push-") as staged:
        _write(made, Path(staged))
        files: Iterable[Path] = sorted(Path(staged).iterdir())
        operations = [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=str(path)) for path in files]
        api = HfApi()
        try:
            api.create_repo(made.to, private=not public, exist_ok=True)
            done = api.create_commit(made.to, operations, commit_message=f"Pack {made.manifest.pack}")
        except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise HubRefusedError(
                f"the hub did not take {made.to}: {reason}; log in with `hf auth login`, or set HF_TOKEN to a token "
                "that may write there"
            ) from error
    return f"{made.to}@{done.oid}"
