"""Base drafts and packs by `name@version`: complete and hashed, or not there.

They lie under `<home>/drafts` and `<home>/packs`, or on storage by URL (`version_store`); beside them there are the
drafts shipped in eda_service/assets/drafts.
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
    """Where `packs` or `drafts` lie: on storage where `EDA_STORAGE` names one, else under home."""
    return current_place().version_store(kind, home or home_dir())


def _draft_version_stores(home: Path | None) -> tuple[VersionStore, VersionStore]:
    shipped = shipped_drafts()
    return _version_store("drafts", home), DirectoryVersionStore(shipped.parent, shipped.name)


def shipped_drafts() -> Path:
    """Directory of the base drafts inside the package."""
    return Path(str(resources.files("eda_service"))) / "assets" / "drafts"


def find_draft(reference: Reference | str, home: Path | None = None) -> Path:
    """Directory of a base draft; without a version the newest.

    Raises:
        BaseDraftMissingError: Not registered and not shipped.
    """
    name, version, version_store = _find_draft(reference, home)
    return version_store.directory(name, version)


def find_draft_file(reference: Reference | str, file: str, home: Path | None = None) -> Path:
    """One file of a base draft; the others are not fetched.

    Raises:
        BaseDraftMissingError: Not registered and not shipped.
        ArtifactCorruptError: It is not on storage.
    """
    name, version, version_store = _find_draft(reference, home)
    return version_store.file(name, version, file)


def find_draft_manifest(reference: Reference | str, home: Path | None = None) -> DraftManifest:
    """What a base draft says of itself; its files are neither fetched nor verified.

    Raises:
        BaseDraftMissingError: Not registered and not shipped.
        ArtifactCorruptError: It does not parse.
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
    # A number that comes with the package is the package's, whatever was registered under it before it came.
    is_theirs = version is not None and version in shipped.versions(name)
    for version_store in (shipped,) if is_theirs else (registered, shipped):
        found = version_store.versions(name)
        if found and (version is None or version in found):
            return name, found[-1] if version is None else version, version_store
    # Those that come with the package alone: other registered ones may be other people's.
    known = [str(Reference(each, number)) for each in shipped.names() for number in shipped.versions(each)]
    raise BaseDraftMissingError(
        f"no base draft {str(reference)!r}{did_you_mean(str(reference), [*known, *shipped.names()])}; with the package "
        f"come {', '.join(known) or 'none'}; `eda drafts ls` lists yours, `eda drafts import` brings one, `python -m "
        "jobs.train_draft --pretrain` trains one",
        param="base_draft",
    )


def list_drafts(home: Path | None = None) -> list[str]:
    """All base drafts as `name@version`."""
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
    """A base draft's manifest, its files verified.

    Raises:
        ArtifactCorruptError: It does not parse or a file differs.
    """
    return _read_manifest(DraftManifest, directory)


def find_pack(reference: Reference | str, home: Path | None = None) -> Path:
    """Directory of a pack; without a version the newest.

    Raises:
        NotFoundError: No such pack.
    """
    name, number, version_store = _find_pack(reference, home)
    return version_store.directory(name, number)


def find_pack_manifest(reference: Reference | str, home: Path | None = None) -> PackManifest:
    """What a pack says of itself; its files are neither fetched nor verified.

    Raises:
        NotFoundError: No such pack.
        ArtifactCorruptError: It does not parse.
    """
    return parse_pack_manifest(pack_manifest_text(reference, home), reference)


def pack_manifest_text(reference: Reference | str, home: Path | None = None) -> str:
    """The same as it was written. A version that is named by its number is read without listing the others.

    Raises:
        NotFoundError: No such pack.
    """
    name, version = _split(reference, "pack")
    if version is not None:
        with contextlib.suppress(NotFoundError):
            return _version_store("packs", home).manifest(name, version)
    name, number, version_store = _find_pack(reference, home)
    return version_store.manifest(name, number)


def parse_pack_manifest(text: str, reference: Reference | str) -> PackManifest:
    """The manifest that a text is.

    Raises:
        ArtifactCorruptError: It does not parse.
    """
    return _parse(PackManifest, text, f"the manifest of {reference}")


def _find_pack(reference: Reference | str, home: Path | None) -> tuple[str, int, VersionStore]:
    name, version = _split(reference, "pack")
    version_store = _version_store("packs", home)
    found = version_store.versions(name)
    if not found or (version is not None and version not in found):
        raise NotFoundError(f"no pack {str(reference)!r}; its versions: {found or 'none'}", param="pack")
    return name, found[-1] if version is None else version, version_store


def pack_names(home: Path | None = None) -> list[str]:
    """Names under which packs are published."""
    return _version_store("packs", home).names()


def all_packs(home: Path | None = None) -> list[tuple[str, int]]:
    """Every published version of every pack, by name and version."""
    return _version_store("packs", home).all()


def pack_versions(name: str, home: Path | None = None) -> list[int]:
    """Published versions of a pack, ascending; none for a name that is no pack's."""
    return _version_store("packs", home).versions(name) if is_name(name) else []


def pack_job_id(name: str, version: int, home: Path | None = None) -> str | None:
    """The job that published a version; None when it came by another way."""
    return _version_store("packs", home).job_id(name, version)


def find_evaluation(name: str, key: str, home: Path | None = None) -> str | None:
    """The fixed evaluation of a pack's name under a key, as stored; None without one."""
    return _version_store("packs", home).evaluation(name, key)


def create_evaluation(name: str, key: str, text: str, home: Path | None = None) -> bool:
    """Store a fixed evaluation unless there is one; whether it was stored. Only this user may read it."""
    return _version_store("packs", home).create_evaluation(name, key, text)


def read_pack_manifest(directory: Path) -> PackManifest:
    """A pack's manifest, its files verified.

    Raises:
        ArtifactCorruptError: It does not parse or a file differs.
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
    """The pack version of a job: the same one when asked again, the next free one the first time."""
    version_store, number = _version_store("packs", home), 1
    while not version_store.claim(name, number, job_id):
        number += 1
    return number


def reserve_next_pack(name: str, home: Path | None = None) -> int:
    """The next free version of a pack that no job makes; nobody else gets it."""
    version_store, number = _version_store("packs", home), max(pack_versions(name, home), default=0) + 1
    while not version_store.claim(name, number, ""):
        number += 1
    return number


def stage_pack(name: str, version: int, home: Path | None = None) -> Path:
    """An empty staging directory of a reserved version."""
    return _version_store("packs", home).staging(name, version)


def forget_staging(config: Task, job_id: str, home: Path | None = None) -> None:
    """Remove what a job that has ended without publishing left of the pack or draft that it was preparing."""
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
    """Names of base drafts, shipped and registered."""
    return sorted({name for version_store in _draft_version_stores(home) for name in version_store.names()})


def draft_versions(name: str, home: Path | None = None) -> list[int]:
    """Versions of a base draft, shipped and registered, ascending; none for a name that is no draft's."""
    if not is_name(name):
        return []
    return sorted(
        {version for version_store in _draft_version_stores(home) for version in version_store.versions(name)}
    )


def is_shipped(name: str, version: int) -> bool:
    """Whether a version of a base draft comes with the package."""
    return version in _draft_version_stores(None)[1].versions(name)


def draft_job_id(name: str, version: int, home: Path | None = None) -> str | None:
    """The job that imported a base draft; None when it came by another way."""
    return _version_store("drafts", home).job_id(name, version)


def require_own_name(name: str) -> None:
    """Refuse to register a draft under a name of those that come with the package.

    Raises:
        InputError: It is one.
    """
    if name in _draft_version_stores(None)[1].names():
        raise InputError(
            f"{name} is the name of a draft that comes with the package, whose next versions have its numbers; choose "
            "another name",
            param="name",
        )


def reserve_draft(name: str, job_id: str, home: Path | None = None) -> int:
    """The version that an import registers: the same one when asked again, else the next after all there ever were."""
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
        name: Its name.
        version: Its number.
        home: Root of the registry.
        is_used: Asked once nobody finds the draft any more: who has found it before is known by then. A draft that is
            used is there again.

    Returns:
        Whether it was removed.
    """
    return _delete(_version_store("drafts", home), name, version, is_used)


def delete_pack(
    name: str, version: int, home: Path | None = None, *, is_used: Callable[[], bool] = lambda: False
) -> bool:
    """Remove a published pack, as `delete_draft` removes a draft; its number is not given again."""
    return _delete(_version_store("packs", home), name, version, is_used)


def _delete(version_store: VersionStore, name: str, version: int, is_used: Callable[[], bool]) -> bool:
    version_store.claim(name, version, "")  # one that no job has made has no claim yet
    hidden = version_store.hide(name, version)
    try:
        used = is_used()
    except BaseException:
        hidden.restore()
        raise
    (hidden.restore if used else hidden.remove)()
    return not used


def stage_draft(name: str, version: int, home: Path | None = None) -> Path:
    """An empty staging directory for a base draft."""
    return _version_store("drafts", home).staging(name, version)


def publish_draft(staging: Path, name: str, version: int, home: Path | None = None) -> Path:
    """Register a staged base draft, whole and once."""
    return _version_store("drafts", home).publish(staging, name, version)


def discard(staging: Path) -> None:
    """Remove a staging directory, if it was not published."""
    shutil.rmtree(staging, ignore_errors=True)
