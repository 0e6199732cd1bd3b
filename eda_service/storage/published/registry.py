"""The registry of base drafts and packs by `name@version`; each is complete and hashed, or absent.

They are stored under `<home>/drafts` and `<home>/packs`, or on storage by URL (`version_stores`); the registry also has
the drafts shipped in eda_service/assets/drafts.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TypeVar

from eda_service.config.job import AdaptConfig
from eda_service.config.tasks import ImportConfig, Task
from eda_service.errors import ArtifactCorruptError, BaseDraftMissingError, InputError, NotFoundError
from eda_service.names import NAME_RULE, did_you_mean, is_name
from eda_service.records import DraftManifest, PackManifest
from eda_service.references import Alias, Reference
from eda_service.storage.files import verify_files
from eda_service.storage.place import current_place
from eda_service.storage.published.version_store import MANIFEST, DirectoryVersionStore, VersionStore
from eda_service.storage.runs.run import home_dir

ManifestT = TypeVar("ManifestT", DraftManifest, PackManifest)


def _split(reference: Reference | str, param: str) -> tuple[str, int | None]:
    found = Reference.parse(reference) if isinstance(reference, str) else reference
    if found is None or isinstance(found.version, Alias):
        raise NotFoundError(
            f"{str(reference)[:96]!r} is no name@version; write {NAME_RULE}, then @ and a number", param=param
        )
    return found.name, found.version


def _version_store(kind: str, home: Path | None) -> VersionStore:
    """Return the store of `packs` or `drafts`: on storage if `EDA_STORAGE` names one, else under home."""
    return current_place().version_store(kind, home or home_dir())


def _draft_version_stores(home: Path | None) -> tuple[VersionStore, VersionStore]:
    shipped = shipped_drafts()
    return _version_store("drafts", home), DirectoryVersionStore(shipped.parent, shipped.name)


def shipped_drafts() -> Path:
    """Return the directory of the base drafts inside the package."""
    return Path(str(resources.files("eda_service"))) / "assets" / "drafts"


def find_draft(reference: Reference | str, home: Path | None = None) -> Path:
    """Find the directory of a base draft; without a version the newest.

    Raises:
        BaseDraftMissingError: The draft is neither registered nor shipped.
    """
    name, version, version_store = _find_draft(reference, home)
    return version_store.directory(name, version)


def find_draft_file(reference: Reference | str, file: str, home: Path | None = None) -> Path:
    """Find one file of a base draft; the others are not fetched.

    Raises:
        BaseDraftMissingError: The draft is neither registered nor shipped.
        ArtifactCorruptError: The file is not on storage.
    """
    name, version, version_store = _find_draft(reference, home)
    return version_store.file(name, version, file)


def find_draft_manifest(reference: Reference | str, home: Path | None = None) -> DraftManifest:
    """Read the manifest of a base draft; its files are neither fetched nor verified.

    Raises:
        BaseDraftMissingError: The draft is neither registered nor shipped.
        ArtifactCorruptError: The manifest does not parse.
    """
    name, version, version_store = _find_draft(reference, home)
    try:
        text = version_store.manifest(name, version)
    except NotFoundError as error:
        raise BaseDraftMissingError(
            f"base draft {Reference(name, version)} has just been removed; name another one", param="base_draft"
        ) from error
    return _parse(DraftManifest, text, f"the manifest of {Reference(name, version)}")


def _find_draft(reference: Reference | str, home: Path | None) -> tuple[str, int, VersionStore]:
    name, version = _split(reference, "base_draft")
    registered, shipped = _draft_version_stores(home)
    # A number that ships with the package is the package's, whatever was registered under it before.
    is_theirs = version is not None and version in shipped.versions(name)
    for version_store in (shipped,) if is_theirs else (registered, shipped):
        found = version_store.versions(name)
        if found and (version is None or version in found):
            return name, found[-1] if version is None else version, version_store
    # Only shipped drafts are suggested: other registered ones may belong to other owners.
    known = [str(Reference(each, number)) for each in shipped.names() for number in shipped.versions(each)]
    raise BaseDraftMissingError(
        f"no base draft {str(reference)!r}{did_you_mean(str(reference), [*known, *shipped.names()])}; with the package "
        f"come {', '.join(known) or 'none'}; `eda drafts ls` lists yours, `eda drafts import` brings one, `python -m "
        "jobs.train_draft --pretrain` trains one",
        param="base_draft",
    )


def list_drafts(home: Path | None = None) -> list[str]:
    """List all base drafts as `name@version`."""
    version_stores = _draft_version_stores(home)
    return sorted(
        {
            str(Reference(name, v))
            for version_store in version_stores
            for name in version_store.names()
            for v in version_store.versions(name)
        }
    )


def read_draft_manifest(directory: Path) -> DraftManifest:
    """Read a base draft's manifest and verify its files.

    Raises:
        ArtifactCorruptError: The manifest does not parse or a file differs.
    """
    return _read_manifest(DraftManifest, directory)


def find_pack(reference: Reference | str, home: Path | None = None) -> Path:
    """Find the directory of a pack; without a version the newest.

    Raises:
        NotFoundError: The pack does not exist.
    """
    name, number, version_store = _find_pack(reference, home)
    return version_store.directory(name, number)


def find_pack_manifest(reference: Reference | str, home: Path | None = None) -> PackManifest:
    """Read the manifest of a pack; its files are neither fetched nor verified.

    Raises:
        NotFoundError: The pack does not exist.
        ArtifactCorruptError: The manifest does not parse.
    """
    return parse_pack_manifest(pack_manifest_text(reference, home), reference)


def pack_manifest_text(reference: Reference | str, home: Path | None = None) -> str:
    """Read the text of a pack's manifest. A version given by its number is read without listing the others.

    Raises:
        NotFoundError: The pack does not exist.
    """
    name, version = _split(reference, "pack")
    if version is not None:
        with contextlib.suppress(NotFoundError):
            return _version_store("packs", home).manifest(name, version)
    name, number, version_store = _find_pack(reference, home)
    return version_store.manifest(name, number)


def parse_pack_manifest(text: str, reference: Reference | str) -> PackManifest:
    """Parse the text of a manifest.

    Raises:
        ArtifactCorruptError: The manifest does not parse.
    """
    return _parse(PackManifest, text, f"the manifest of {reference}")


def _find_pack(reference: Reference | str, home: Path | None) -> tuple[str, int, VersionStore]:
    name, version = _split(reference, "pack")
    version_store = _version_store("packs", home)
    found = version_store.versions(name)
    if not found or (version is not None and version not in found):
        step = "name one of them" if found else "GET /v1/packs lists what there is"
        raise NotFoundError(f"no pack {str(reference)!r}; its versions: {found or 'none'}; {step}", param="pack")
    return name, found[-1] if version is None else version, version_store


def pack_names(home: Path | None = None) -> list[str]:
    """List the names under which packs are published."""
    return _version_store("packs", home).names()


def all_packs(home: Path | None = None) -> list[tuple[str, int]]:
    """List every published version of every pack, by name and version."""
    return _version_store("packs", home).all()


def pack_versions(name: str, home: Path | None = None) -> list[int]:
    """List the published versions of a pack, ascending; empty if no pack has the name."""
    return _version_store("packs", home).versions(name) if is_name(name) else []


def pack_job_id(name: str, version: int, home: Path | None = None) -> str | None:
    """Return the job that published a version; None if no job did."""
    return _version_store("packs", home).job_id(name, version)


def find_evaluation(name: str, key: str, home: Path | None = None) -> str | None:
    """Return the fixed evaluation of a pack's name under a key, as stored; None without one."""
    return _version_store("packs", home).evaluation(name, key)


def create_evaluation(name: str, key: str, text: str, home: Path | None = None) -> bool:
    """Store a fixed evaluation unless there is one, readable by this user only; return whether it was stored."""
    return _version_store("packs", home).create_evaluation(name, key, text)


def read_pack_manifest(directory: Path) -> PackManifest:
    """Read a pack's manifest and verify its files.

    Raises:
        ArtifactCorruptError: The manifest does not parse or a file differs.
    """
    return _read_manifest(PackManifest, directory)


def _read_manifest(kind: type[ManifestT], directory: Path) -> ManifestT:
    path = directory / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise ArtifactCorruptError(f"{path} cannot be read: {error}") from error
    manifest = _parse(kind, text, str(path))
    verify_files(directory, manifest.files)
    return manifest


def _parse(kind: type[ManifestT], text: str, where: str) -> ManifestT:
    try:
        return kind.model_validate_json(text)
    except ValueError as error:
        raise ArtifactCorruptError(f"{where} does not parse: {error}") from error


def reserve_version(name: str, job_id: str, home: Path | None = None) -> int:
    """Reserve the pack version of a job: the same one at every call, the next free one at the first."""
    version_store, number = _version_store("packs", home), 1
    while not version_store.claim(name, number, job_id):
        number += 1
    return number


def reserve_next_pack(name: str, home: Path | None = None) -> int:
    """Reserve the next free version of a pack that no job makes; nobody else gets it."""
    version_store, number = _version_store("packs", home), max(pack_versions(name, home), default=0) + 1
    while not version_store.claim(name, number, ""):
        number += 1
    return number


def stage_pack(name: str, version: int, home: Path | None = None) -> Path:
    """Make an empty staging directory for a reserved version."""
    return _version_store("packs", home).staging(name, version)


def forget_staging(config: Task, job_id: str, home: Path | None = None) -> None:
    """Remove the staging of a pack or draft that a job left when it ended without publishing."""
    if isinstance(config, AdaptConfig):
        _version_store("packs", home).forget_staging(config.public_name, job_id)
    elif isinstance(config, ImportConfig):
        _version_store("drafts", home).forget_staging(config.draft_name, job_id)


def publish_pack(staging: Path, name: str, version: int, home: Path | None = None) -> Path:
    """Make a staged pack visible, whole and once."""
    return _version_store("packs", home).publish(staging, name, version)


def has_draft(name: str, version: int, home: Path | None = None) -> bool:
    """Whether a base draft of that version is registered (shipped ones are not)."""
    return version in _version_store("drafts", home).versions(name)


def draft_names(home: Path | None = None) -> list[str]:
    """List the names of base drafts, shipped and registered."""
    return sorted({name for version_store in _draft_version_stores(home) for name in version_store.names()})


def draft_versions(name: str, home: Path | None = None) -> list[int]:
    """List the versions of a base draft, shipped and registered, ascending; empty if no draft has the name."""
    if not is_name(name):
        return []
    return sorted(
        {version for version_store in _draft_version_stores(home) for version in version_store.versions(name)}
    )


def is_shipped(name: str, version: int) -> bool:
    """Whether a version of a base draft is shipped with the package."""
    return version in _draft_version_stores(None)[1].versions(name)


def draft_job_id(name: str, version: int, home: Path | None = None) -> str | None:
    """Return the job that imported a base draft; None if no job did."""
    return _version_store("drafts", home).job_id(name, version)


def require_own_name(name: str) -> None:
    """Refuse to register a draft under a name of a shipped draft.

    Raises:
        InputError: The name is one of a shipped draft.
    """
    if name in _draft_version_stores(None)[1].names():
        raise InputError(
            f"{name} is the name of a draft that comes with the package, whose next versions have its numbers; choose "
            "another name",
            param="name",
        )


def reserve_draft(name: str, job_id: str, home: Path | None = None) -> int:
    """Reserve the version that an import registers: the same one at every call, at the first the one after all earlier
    ones.
    """
    version_store, taken = _version_store("drafts", home), max(draft_versions(name, home), default=0)
    number = 1
    while True:
        holder = version_store.job_id(name, number)
        if holder == job_id or (holder is None and number > taken and version_store.claim(name, number, job_id)):
            return number
        number += 1


def delete_draft(
    name: str, version: int, home: Path | None = None, *, is_used: Callable[[], bool] = lambda: False
) -> bool:
    """Remove a registered base draft, at once and whole; its number is not given again.

    Args:
        name: Name of the draft.
        version: Number of the version.
        home: Root of the registry.
        is_used: Function that is called once the draft can no longer be found, so that all earlier users are known; if
            it returns True, the draft is restored.

    Returns:
        Whether it was removed.
    """
    return _delete(_version_store("drafts", home), name, version, is_used)


def delete_pack(
    name: str, version: int, home: Path | None = None, *, is_used: Callable[[], bool] = lambda: False
) -> bool:
    """Remove a published pack in the way that `delete_draft` removes a draft; its number is not given again."""
    return _delete(_version_store("packs", home), name, version, is_used)


def _delete(version_store: VersionStore, name: str, version: int, is_used: Callable[[], bool]) -> bool:
    version_store.claim(name, version, "")  # a version that no job has made has no claim yet
    hidden = version_store.hide(name, version)
    try:
        used = is_used()
    except BaseException:
        hidden.restore()
        raise
    (hidden.restore if used else hidden.remove)()
    return not used


def stage_draft(name: str, version: int, home: Path | None = None) -> Path:
    """Make an empty staging directory for a base draft."""
    return _version_store("drafts", home).staging(name, version)


def publish_draft(staging: Path, name: str, version: int, home: Path | None = None) -> Path:
    """Register a staged base draft, whole and once."""
    return _version_store("drafts", home).publish(staging, name, version)


def discard(staging: Path) -> None:
    """Remove a staging directory, if it was not published."""
    shutil.rmtree(staging, ignore_errors=True)
