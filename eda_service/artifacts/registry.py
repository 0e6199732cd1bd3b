"""Base drafts and packs by `name@version`: directories that are complete and hashed, or not there.

<home>/drafts/<name>/<version>/   and the drafts shipped in eda_service/assets/drafts
<home>/packs/<name>/<version>/
"""

from __future__ import annotations

import re
import shutil
from importlib import resources
from pathlib import Path
from typing import TypeVar

from eda_service.artifacts.files import claim_file, publish_dir, verify_files
from eda_service.artifacts.rundir import home_dir
from eda_service.errors import ArtifactCorruptError, BaseDraftMissingError, NotFoundError
from eda_service.records import DraftManifest, PackManifest

ManifestT = TypeVar("ManifestT", DraftManifest, PackManifest)
_NAME = re.compile(r"^[A-Za-z0-9][\w.-]{0,95}$")


def _split(reference: str, param: str) -> tuple[str, int | None]:
    name, at, version = reference.partition("@")
    if not _NAME.fullmatch(name) or (at and not version.isdigit()):
        raise NotFoundError(
            f"{reference[:96]!r} is no name@version; write letters, digits, '.', '_', '-', then @ and a number",
            param=param,
        )
    return name, int(version) if at else None


def _versions(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(
        int(path.name) for path in directory.iterdir() if path.name.isdigit() and (path / "manifest.json").exists()
    )


def shipped_drafts() -> Path:
    """Directory of the base drafts inside the package."""
    return Path(str(resources.files("eda_service"))) / "assets" / "drafts"


def find_draft(reference: str, home: Path | None = None) -> Path:
    """Directory of a base draft; without a version the newest.

    Raises:
        BaseDraftMissingError: Not registered and not shipped.
    """
    name, version = _split(reference, "base_draft")
    for root in ((home or home_dir()) / "drafts", shipped_drafts()):
        found = _versions(root / name)
        if found and (version is None or version in found):
            return root / name / str(found[-1] if version is None else version)
    raise BaseDraftMissingError(
        f"no base draft {reference!r}; available: {', '.join(list_drafts(home)) or 'none'}; "
        "train one with `python -m jobs.train_draft --pretrain`",
        param="base_draft",
    )


def list_drafts(home: Path | None = None) -> list[str]:
    """All base drafts as `name@version`."""
    found: set[str] = set()
    for root in ((home or home_dir()) / "drafts", shipped_drafts()):
        if root.is_dir():
            found.update(f"{path.name}@{v}" for path in root.iterdir() for v in _versions(path))
    return sorted(found)


def read_draft_manifest(directory: Path) -> DraftManifest:
    """A base draft's manifest, its files verified.

    Raises:
        ArtifactCorruptError: It does not parse or a file differs.
    """
    return _read_manifest(DraftManifest, directory)


def find_pack(reference: str, home: Path | None = None) -> Path:
    """Directory of a pack; without a version the newest.

    Raises:
        NotFoundError: No such pack.
    """
    name, version = _split(reference, "pack")
    root = (home or home_dir()) / "packs" / name
    found = _versions(root)
    if not found or (version is not None and version not in found):
        raise NotFoundError(f"no pack {reference!r}; its versions: {found or 'none'}", param="pack")
    return root / str(found[-1] if version is None else version)


def pack_names(home: Path | None = None) -> list[str]:
    """Names under which packs are published."""
    root = (home or home_dir()) / "packs"
    return sorted(path.name for path in root.iterdir() if _versions(path)) if root.is_dir() else []


def pack_versions(name: str, home: Path | None = None) -> list[int]:
    """Published versions of a pack, ascending; none for a name that is no pack's."""
    return _versions((home or home_dir()) / "packs" / name) if _NAME.fullmatch(name) else []


def pack_job_id(name: str, version: int, home: Path | None = None) -> str | None:
    """The job that published a version; None when it came by another way."""
    try:
        return ((home or home_dir()) / "packs" / name / f".{version}.job").read_text(encoding="utf-8") or None
    except OSError:
        return None


def read_pack_manifest(directory: Path, *, verify: bool = True) -> PackManifest:
    """A pack's manifest, its files verified unless told otherwise.

    Raises:
        ArtifactCorruptError: It does not parse or a file differs.
    """
    return _read_manifest(PackManifest, directory, verify=verify)


def _read_manifest(kind: type[ManifestT], directory: Path, *, verify: bool = True) -> ManifestT:
    path = directory / "manifest.json"
    try:
        manifest = kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArtifactCorruptError(f"{path} does not parse: {error}") from error
    if verify:
        verify_files(directory, manifest.files)
    return manifest


def reserve_version(name: str, job_id: str, home: Path | None = None) -> int:
    """The pack version of a job: the same one when asked again, the next free one the first time."""
    root = (home or home_dir()) / "packs" / name
    root.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        claim = root / f".{number}.job"
        if claim_file(claim, job_id) or claim.read_text(encoding="utf-8") == job_id:
            return number
        number += 1


def stage_pack(name: str, version: int, home: Path | None = None) -> Path:
    """An empty staging directory of a reserved version; what a killed attempt left there is removed."""
    staging = (home or home_dir()) / "packs" / name / f".staging-{version}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def publish_pack(staging: Path, name: str, version: int, home: Path | None = None) -> Path:
    """Make a staged pack visible, whole and once."""
    destination = (home or home_dir()) / "packs" / name / str(version)
    publish_dir(staging, destination)
    return destination


def discard(staging: Path) -> None:
    """Remove a staging directory, if it was not published."""
    shutil.rmtree(staging, ignore_errors=True)
