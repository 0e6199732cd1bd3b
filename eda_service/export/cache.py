"""Exports for vLLM that a service makes by itself, under `<home>/exports`, by the hash of their inputs.

A deployment and a self-generation need whole models and drafts as directories; making one takes seconds to minutes, and
every replica on the machine needs the same. An existing export that reads back well is reused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eda_service.config.job import TargetSpec
from eda_service.errors import ArtifactCorruptError, ConflictError
from eda_service.export.calibration import CalibrationSettings
from eda_service.export.export import ExportRequest, export_draft
from eda_service.export.files.directory import published, read_export
from eda_service.export.files.eda_config import SCHEMA_VERSION, Destination, ExportForm
from eda_service.export.packed.packs_over import AdaptersPack
from eda_service.export.packed.several import PacksRequest, export_packs
from eda_service.export.source import find_source
from eda_service.records import TargetFingerprint
from eda_service.storage.files import sha256_text
from eda_service.storage.runs.run import home_dir
from eda_service.targets.chat.chat import target_tokenizer
from eda_service.targets.checks.check import load_config
from eda_service.targets.files.identity import fingerprint
from eda_service.targets.files.merged import write_merged
from eda_service.targets.files.resolve import resolve_target

_KEY_LENGTH = 16


@dataclass(frozen=True)
class WholeTarget:
    """A target as other engines load it.

    Attributes:
        directory: Directory with config, weights, tokenizer and chat template; an adapter is merged.
    """

    directory: Path
    fingerprint: TargetFingerprint


def exports_dir(home: Path | None = None) -> Path:
    """Return the directory of the exports; its contents may be deleted while nothing runs on them."""
    return (home or home_dir()) / "exports"


def whole_target(spec: TargetSpec, home: Path | None = None) -> WholeTarget:
    """Return a target's own directory, or one with its adapter merged, written at the first call.

    Raises:
        TargetNotFoundError: The target does not exist.
        TargetIncompatibleError: The adapter does not fit its base.
    """
    found = resolve_target(spec)
    made = fingerprint(found, target_tokenizer(found), load_config(found.model_dir))
    if found.adapter_dir is None:
        return WholeTarget(found.model_dir, made)
    directory = exports_dir(home) / f"target-{_key(made.weights_sha256, spec.dtype)}"
    if not directory.is_dir():
        _write_target(spec, directory)
    return WholeTarget(directory, made)


def vllm_draft(
    reference: str,
    target: WholeTarget,
    spec: TargetSpec,
    form: ExportForm,
    *,
    num_draft_tokens: int,
    home: Path | None = None,
) -> Path:
    """Return the directory of a pack or base draft that vLLM loads, exported at the first call.

    Args:
        reference: name@version of a pack, or of a base draft where no pack has that name.
        target: Target that the draft is for.
        spec: Name of the target, as it was asked for.
        form: Plugin, or dense, which is calibrated on the general prompts.
        num_draft_tokens: Number of tokens K of the chains.
        home: Root of the registry.

    Raises:
        NotFoundError: The pack or base draft does not exist.
        TargetIncompatibleError: The pack or draft was made for another target.
        ArtifactCorruptError: A source file is damaged.
    """
    source = find_source(reference, home)
    source.check(target.fingerprint)
    chain = num_draft_tokens if form is ExportForm.DENSE else 0  # only a calibrated export depends on K
    key = _key(
        str(SCHEMA_VERSION), source.reference, source.sha256, target.fingerprint.weights_sha256, form, str(chain)
    )
    directory = exports_dir(home) / f"draft-{key}"
    if directory.is_dir() and not _is_whole(directory):
        shutil.rmtree(directory)
    if not directory.is_dir():
        request = ExportRequest(
            reference,
            Destination.VLLM,
            form,
            directory,
            target=spec,
            calibration=CalibrationSettings(num_draft_tokens=num_draft_tokens),
        )
        try:
            export_draft(request, home=home)
        except ConflictError:
            if not directory.is_dir():
                raise  # it exists: another replica was faster
    return directory


def vllm_packs(
    base_draft: str, target: TargetSpec, packs: Sequence[AdaptersPack], *, places: int, home: Path | None = None
) -> Path:
    """Return the directory of a base draft with several packs that vLLM loads, exported at the first call.

    Args:
        base_draft: Base draft as name@version.
        target: The base target, without an adapter.
        packs: Packs over that draft, one or more.
        places: Largest number of packs that the export can hold.
        home: Root of the registry.

    Raises:
        NotFoundError: The base draft or a pack does not exist.
        InputError: A pack has trained parts that packs share.
        TargetIncompatibleError: A pack is not for an adapter on this target.
        ArtifactCorruptError: A source file is damaged.
    """
    sources = [find_source(base_draft, home), *(find_source(each.reference, home) for each in packs)]
    hashes = [[source.reference, source.sha256] for source in sources]
    named = [[each.adapter, each.target and each.target.model_dump(mode="json")] for each in packs]
    directory = exports_dir(home) / f"draft-{_key(SCHEMA_VERSION, 'packs', hashes, named, places)}"
    if directory.is_dir() and not _is_whole(directory):
        shutil.rmtree(directory)
    if not directory.is_dir():
        try:
            export_packs(PacksRequest(base_draft, tuple(packs), directory, target, places), home=home)
        except ConflictError:
            if not directory.is_dir():
                raise
    return directory


def _write_target(spec: TargetSpec, directory: Path) -> None:
    try:
        with published(directory, "target") as staging:
            write_merged(spec, staging)
    except ConflictError:
        if not directory.is_dir():
            raise


def _is_whole(directory: Path) -> bool:
    try:
        read_export(directory)
    except ArtifactCorruptError:
        return False
    return True


def _key(*parts: object) -> str:
    return sha256_text(json.dumps(parts, sort_keys=True))[:_KEY_LENGTH]
