"""Pulling a pack from a repository of another author: bounded, verified, and registered whole or not at all.

Only three files are read: manifest.json, pack.json, pack.safetensors. Nothing is unpickled. Measurements in the
manifest are kept as claims of the author: the manifest names its origin, references to other packs are removed, and its
numbers are not compared with any here.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eda_service.errors import (
    ArtifactCorruptError,
    BaseDraftMissingError,
    EdaError,
    InputError,
    InsufficientStorageError,
    UnsafeCheckpointError,
)
from eda_service.export.repositories.pack_source import PackSource
from eda_service.names import NAME_RULE, is_name
from eda_service.records import SCHEMA_VERSION, DraftManifest, FileEntry, PackManifest
from eda_service.references import Reference
from eda_service.storage.files import sha256_text, write_json
from eda_service.storage.inputs import bounded_json
from eda_service.storage.published import registry
from eda_service.storage.published.version_store import MANIFEST
from eda_service.storage.runs.run import home_dir
from eda_service.storage.staging import staged

PULLED = "pull"
"""Files that are being fetched lie beside this name in the home, which itself never exists."""
MAX_JSON_BYTES = 1 << 20
MAX_WEIGHTS_BYTES = 8 << 30
_PARAMS, _WEIGHTS = "pack.json", "pack.safetensors"
_BOUNDS = {MANIFEST: MAX_JSON_BYTES, _PARAMS: MAX_JSON_BYTES, _WEIGHTS: MAX_WEIGHTS_BYTES}
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class PulledPackError(InputError):
    """A repository holds no pack, or one that does not match its manifest."""

    code = "pack_invalid"


def pull(source: PackSource, *, name: str | None = None, home: Path | None = None) -> PackManifest:
    """Fetch, verify and register a pack; return its manifest here, with its new name@version.

    Args:
        source: Directory, or repository on the hub at a commit.
        name: Name to register the pack under; None: its own.
        home: Root of the registry.

    Raises:
        PulledPackError: The repository holds no pack, or one that does not match its manifest.
        UnsafeCheckpointError: The weights are pickled, or no valid safetensors.
        BaseDraftMissingError: The base draft of the pack is not registered here.
        InsufficientStorageError: The pack does not fit on the disk.
    """
    if name is not None and not is_name(name):
        raise InputError(f"--name {name[:64]!r} is no name; a name is {NAME_RULE}", param="name")
    root = home or home_dir()
    _check_listing(source, root)
    root.mkdir(parents=True, exist_ok=True)
    with staged(root.absolute() / PULLED) as files:
        _fetch(source, MANIFEST, files)
        theirs = _manifest(files / MANIFEST, source)
        base = _base_draft(theirs, home)
        for entry in theirs.files:
            digest = _fetch(source, entry.path, files)
            if digest != entry.sha256:
                raise PulledPackError(
                    f"{entry.path} of {source.label} has sha256 {digest[:12]}, its manifest says {entry.sha256[:12]}; "
                    "fetch it again, or ask who pushed it",
                    param="repo",
                )
        _check_weights(files, base, theirs, source, home)
        return _register(theirs, files, source, base, name, home)


def _check_listing(source: PackSource, root: Path) -> None:
    """Refuse a repository that holds no pack, or is too large, before anything is fetched."""
    missing = [file for file in _BOUNDS if file not in source.sizes]
    pickled = sorted(file for file in source.sizes if file.endswith(_PICKLED))
    if _WEIGHTS in missing and pickled:
        raise UnsafeCheckpointError(
            f"{source.label} holds pickled weights ({', '.join(pickled[:3])[:200]}), which can run code when read; "
            f"only {_WEIGHTS} is read",
            param="repo",
        )
    if missing:
        raise PulledPackError(
            f"{source.label} is no pack: it has no {', '.join(missing)}; `eda packs push` makes such a repository",
            param="repo",
        )
    for file, bound in _BOUNDS.items():
        if source.sizes[file] > bound:
            raise PulledPackError(
                f"{file} of {source.label} has {source.sizes[file]:,} bytes, at most {bound:,} are taken", param="repo"
            )
    existing = next(each for each in (root, *root.absolute().parents) if each.exists())
    need_bytes, free_bytes = sum(source.sizes[file] for file in _BOUNDS), shutil.disk_usage(existing).free
    if free_bytes < need_bytes:
        raise InsufficientStorageError(
            f"{source.label} has {need_bytes:,} bytes and {free_bytes:,} are free under {root}; free space, or point "
            "EDA_HOME elsewhere",
            param="repo",
        )


def _fetch(source: PackSource, file: str, directory: Path) -> str:
    """Copy one file, at most as many bytes as announced; return its sha256."""
    digest, size_bytes, announced = hashlib.sha256(), 0, source.sizes[file]
    try:
        with (directory / file).open("wb") as out:
            for chunk in source.read(file):
                size_bytes += len(chunk)
                if size_bytes > min(announced, _BOUNDS[file]):
                    break
                digest.update(chunk)
                out.write(chunk)
    except OSError as error:
        raise PulledPackError(f"{file} of {source.label} cannot be copied: {error}", param="repo") from error
    if size_bytes != announced:
        raise PulledPackError(
            f"{file} of {source.label} has another size than the {announced:,} bytes that were announced; fetch it "
            "again",
            param="repo",
        )
    return digest.hexdigest()


def _manifest(path: Path, source: PackSource) -> PackManifest:
    """Read the manifest of the author, within bounds."""
    try:
        written = bounded_json.read_object(path, max_bytes=MAX_JSON_BYTES)
        for each in _leaves(written):
            if isinstance(each, str) and not each.isprintable():
                raise ValueError(f"it has characters that cannot be printed: {each[:32]!a}")
            if isinstance(each, float) and not math.isfinite(each):
                raise ValueError(f"it has a number that is not finite: {each}")
        found = PackManifest.model_validate(written)
        own = Reference.parse(found.pack)
        if own is None or own.number is None:
            raise ValueError(f"it is called {found.pack[:96]!r}, which is no name@version")
        if found.schema_version != SCHEMA_VERSION:
            raise ValueError(f"its schema_version is {found.schema_version}, {SCHEMA_VERSION} is read")
        _check_entries(found.files, source.sizes)
    except (ValueError, OSError) as error:
        raise PulledPackError(
            f"{MANIFEST} of {source.label} is none of a pack: {_first(error)}", param="repo"
        ) from error
    return found


def _check_entries(files: tuple[FileEntry, ...], sizes: Mapping[str, int]) -> None:
    if sorted(entry.path for entry in files) != [_PARAMS, _WEIGHTS]:
        raise ValueError(f"it names other files than {_PARAMS} and {_WEIGHTS}")
    for entry in files:
        if entry.size_bytes != sizes[entry.path]:
            raise ValueError(f"{entry.path} has {sizes[entry.path]:,} bytes and should have {entry.size_bytes:,}")


def _base_draft(theirs: PackManifest, home: Path | None) -> Reference:
    """Find the local draft that a pack was trained beside, whatever its name."""
    named = Reference.parse(theirs.base_draft)
    drafts = registry.list_drafts(home)
    first = [theirs.base_draft] if named is not None and theirs.base_draft in drafts else []
    for reference in [*first, *drafts]:
        try:
            manifest = registry.find_draft_manifest(reference, home)
        except EdaError:
            continue  # damaged, or removed meanwhile: it is not the draft that is searched
        found = Reference.parse(reference)
        if found is not None and draft_sha256(manifest) == theirs.base_draft_sha256:
            return found
    raise BaseDraftMissingError(
        f"the pack was trained beside the draft {theirs.base_draft[:96]} (sha256 {theirs.base_draft_sha256[:12]}), "
        "which is not here; bring it with `eda drafts import`, then pull again",
        param="base_draft",
    )


def draft_sha256(manifest: DraftManifest) -> str:
    """Return the hash by which packs name their base draft."""
    return sha256_text("".join(entry.sha256 for entry in manifest.files))


def _check_weights(files: Path, base: Reference, theirs: PackManifest, source: PackSource, home: Path | None) -> None:
    """Apply the pack to its draft and check names, shapes, the frozen part, and values."""
    import torch

    from eda_service.drafts.checkpoint import load_pack
    from eda_service.storage.inputs.tensor_header import read_header

    read_header(files / _WEIGHTS, param="repo")
    try:
        bounded_json.read_object(files / _PARAMS, max_bytes=MAX_JSON_BYTES)
        loaded = load_pack(registry.find_draft(base, home), files, dtype=torch.float32)
        wrong = [name for name, value in loaded.draft.named_parameters() if not bool(torch.isfinite(value).all())]
        if wrong:
            raise ValueError(f"{wrong[0]} holds values that are not finite")
        vocab_W, size = loaded.vocab_W, theirs.target.vocab_size
        if vocab_W is not None and (vocab_W.numel() == 0 or int(vocab_W.min()) < 0 or int(vocab_W.max()) >= size):
            raise ValueError(f"its draft vocabulary names tokens that a vocabulary of {size} does not have")
    except (ArtifactCorruptError, ValueError, OSError) as error:
        reason = _first(error).replace(str(files), "the pack")
        raise PulledPackError(f"{source.label} is not over {base} what it says: {reason}", param="repo") from error


def _register(
    theirs: PackManifest, files: Path, source: PackSource, base: Reference, name: str | None, home: Path | None
) -> PackManifest:
    own = Reference.parse(theirs.pack)
    assert own is not None
    called = name or own.name
    version = registry.reserve_next_pack(called, home)
    ours = theirs.model_copy(
        update={
            "pack": str(Reference(called, version)),
            "base_draft": str(base),
            "config": {**theirs.config, "base_draft": str(base)},
            "created_at": int(time.time()),
            "source": source.label,
            "rivals": (),
            "unmeasured_rivals": {},
            "fixed": None,
        }
    )
    staging = registry.stage_pack(called, version, home)
    try:
        for entry in ours.files:
            shutil.copyfile(files / entry.path, staging / entry.path)
        write_json(staging / MANIFEST, ours.model_dump(mode="json"))
        return registry.read_pack_manifest(registry.publish_pack(staging, called, version, home))
    finally:
        registry.discard(staging)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield every value in JSON that contains no others, keys included."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _first(error: Exception) -> str:
    """Describe an error on one line: of many wrong fields the first."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, found['loc']))[:96]}: {found['msg']}"[:300]
    return " ".join(str(error).split())[:300]
