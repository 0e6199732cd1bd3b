"""The source of an export: a published pack over its base draft, or a base draft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from eda_service.config.job import TargetSpec
from eda_service.drafts.checkpoint import LoadedDraft, load_base_draft, load_pack
from eda_service.errors import BaseDraftMissingError, InputError, NotFoundError
from eda_service.records import PackManifest, TargetFingerprint
from eda_service.references import Reference
from eda_service.storage.published.compatibility import check_draft_fits, check_pack_fits
from eda_service.storage.published.packs import target_of
from eda_service.storage.published.registry import (
    find_draft,
    find_pack,
    list_drafts,
    pack_names,
    read_draft_manifest,
    read_pack_manifest,
)

BASE_DRAFT = "base_draft"


@dataclass(frozen=True)
class Source:
    """A draft to export and its origin.

    Attributes:
        reference: Reference as name@version.
        method: Training method of the pack, or `base_draft`.
        base_draft: Base draft as name@version.
        base_dir: Directory of the base draft.
        loaded: Draft in float32, LoRA merged.
        sha256: Hashes of the weights, by file.
        target: Target that a pack was adapted to; None: unknown.
        check: Function that refuses a target that the draft does not fit.
    """

    reference: str
    method: str
    base_draft: str
    base_dir: Path
    loaded: LoadedDraft
    sha256: dict[str, str]
    target: TargetSpec | None
    check: Callable[[TargetFingerprint], None]

    def target_spec(self, given: TargetSpec | None) -> TargetSpec:
        """Return the given target, or else the pack's own.

        Raises:
            InputError: No target is given, and the source names none.
        """
        spec = given or self.target
        if spec is None:
            raise InputError(
                f"{self.reference} does not say which target it belongs to; name it with --target", param="target"
            )
        return spec


def find_source(reference: str, home: Path | None = None) -> Source:
    """Find a pack, or a base draft if no pack has that name.

    Raises:
        NotFoundError: No pack and no base draft has that name.
        ArtifactCorruptError: A file differs from its manifest.
    """
    try:
        directory = find_pack(reference, home)
    except NotFoundError:
        return _base_draft(reference, home)
    return _pack(directory, read_pack_manifest(directory), home)


def _pack(directory: Path, manifest: PackManifest, home: Path | None) -> Source:
    base_dir = find_draft(manifest.base_draft, home)
    hashes = {f"pack/{entry.path}": entry.sha256 for entry in manifest.files if entry.path.endswith(".safetensors")}
    return Source(
        reference=manifest.pack,
        method=manifest.method,
        base_draft=manifest.base_draft,
        base_dir=base_dir,
        loaded=load_pack(base_dir, directory, dtype=torch.float32),
        sha256=hashes | {"base_draft": manifest.base_draft_sha256},
        target=target_of(manifest),
        check=lambda target: check_pack_fits(manifest, target),
    )


def _base_draft(reference: str, home: Path | None) -> Source:
    try:
        directory = find_draft(reference, home)
    except (BaseDraftMissingError, NotFoundError) as error:
        raise NotFoundError(
            f"no pack and no base draft {reference[:96]!r}; packs: {', '.join(pack_names(home)) or 'none'}; "
            f"base drafts: {', '.join(list_drafts(home)) or 'none'}; name one of them, or make a pack with `eda adapt`",
            param="reference",
        ) from error
    manifest = read_draft_manifest(directory)
    name = str(Reference(manifest.name, manifest.version))
    return Source(
        reference=name,
        method=BASE_DRAFT,
        base_draft=name,
        base_dir=directory,
        loaded=load_base_draft(directory, dtype=torch.float32),
        sha256={e.path: e.sha256 for e in manifest.files if e.path.endswith(".safetensors")},
        target=None,
        check=lambda target: check_draft_fits(manifest, target),
    )
