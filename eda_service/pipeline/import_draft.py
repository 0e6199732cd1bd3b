"""The import of a draft that was made elsewhere: read -> check -> publish.

read      the source's files in their dialect, checked against the base target's config, staged for the registry
check     agreement with the base target on answers of its own, under the declared fields and likely misreadings
publish   `name@next number` in the registry, whole and once

Nothing is registered before the last step; it reserves a version under the job's id, as for a pack.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from eda_service.config.tasks import ImportConfig
from eda_service.draft_check import DraftCheck
from eda_service.drafts.dialects.read import ReadDraft, read_source
from eda_service.drafts.dialects.record import BaseTarget
from eda_service.drafts.dialects.store import write_imported
from eda_service.drafts.source import find_source
from eda_service.errors import ConflictError
from eda_service.pipeline.driver import drive
from eda_service.pipeline.measuring import check_staged
from eda_service.pipeline.stage import StageRunner
from eda_service.planning.placement import MODEL_CPUS
from eda_service.raycluster.resources import connect, limit_threads, require_gpus
from eda_service.records import DraftManifest, FileEntry, Stage
from eda_service.storage.files import file_entry, require_free_bytes, write_json
from eda_service.storage.published.registry import (
    discard,
    find_draft_manifest,
    has_draft,
    publish_draft,
    require_own_name,
    reserve_draft,
    stage_draft,
)
from eda_service.storage.runs.provenance import library_versions
from eda_service.storage.runs.run import RunDir
from eda_service.targets.device import choose_device
from eda_service.targets.files.base_target import BaseModel, find_base
from eda_service.task_records import (
    CheckFields,
    CheckRecord,
    ImportTarget,
    ReadFields,
    ReadRecord,
    RegisterFields,
    RegisterRecord,
)

logger = logging.getLogger(__name__)

_STAGED, _SCRATCH = "draft", "scratch"


def import_draft(run: RunDir, config: ImportConfig) -> RegisterRecord:
    """Run all stages of an import in order, ending with `result.json`.

    Raises:
        EdaError: A stage failed; `result.json` then carries its code.
    """

    def ended(record: RegisterRecord) -> None:
        run.event("draft_registered", f"registered {record.draft}", stage=Stage.PUBLISH)
        run.succeed_with(record.draft)

    return drive(run, config, IMPORTING, RegisterRecord, ended)


def run_read(run: RunDir, config: ImportConfig) -> ReadFields:
    """Read the source and stage the draft.

    Raises:
        DraftSourceMissingError, DraftIncompatibleError, UnsafeCheckpointError: The source cannot be used.
        TargetNotFoundError, TargetIncompatibleError: The base target cannot be used.
        InsufficientStorageError: The source, which is not fetched then, or its staged copy does not fit on the disk.
        ArtifactCorruptError: The files were changed while they were read.
    """
    run.progress(Stage.READ, step=0, total_steps=1)
    require_own_name(config.draft_name)
    base = find_base(config.target)
    for note in base.notes:
        run.event("target_note", note, stage=Stage.READ, level="warning")
    directory = run.stage_dir(Stage.READ)
    source = find_source(config.source, config.revision, work_dir=directory)
    _require_room(directory, source.directory)
    staging, scratch = _empty(directory / _STAGED), _empty(directory / _SCRATCH)
    try:
        read = stage_source(source.directory, base, staging, overrides=config.overrides, scratch=scratch)
        source.require_unchanged()
    finally:
        discard(scratch)
    assumed = (*(f"{each.field} = {each.value}: {each.why}" for each in read.assumed), *_unknown(base))
    for each in assumed:
        run.event("assumed", each, stage=Stage.READ, level="warning")
    files = tuple(file_entry(directory, path, transient=True) for path in sorted(staging.iterdir()))
    run.store.upload(Stage.READ, files)
    run.progress(Stage.READ, step=1, total_steps=1)
    return ReadFields(
        inputs={},
        files=files,
        target=_target_of(base),
        source=source.label,
        kind=read.config.kind,
        dialect=str(read.dialect),
        assumed=assumed,
    )


def stage_source(
    directory: Path, base: BaseModel, staging: Path, *, overrides: Mapping[str, str], scratch: Path
) -> ReadDraft:
    """Read the draft in a directory, and write it as a base draft.

    Args:
        directory: Directory of the source.
        base: Base target of the draft.
        staging: Empty directory; gets `config.json`, `draft.safetensors` and the files needed to export it unchanged.
        overrides: Fields of the draft's config that the user has set.
        scratch: Empty directory for converted files.

    Raises:
        DraftIncompatibleError, UnsafeCheckpointError, InputError: The source or an override cannot
            be used.
    """
    config = base.config
    target = BaseTarget(
        num_layers=config.num_hidden_layers,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        max_position_embeddings=getattr(config, "max_position_embeddings", None),
    )
    read = read_source(directory, target, overrides=overrides, scratch=scratch)
    write_imported(read, staging)
    return read


def run_check(run: RunDir, config: ImportConfig) -> CheckFields:
    """Measure the staged draft if its target's weights are on this machine, else record why not.

    Raises:
        InputError: The config has `use_gpu`, and Ray is private to this process and has no GPU.
    """
    read = run.require(ReadRecord)
    run.progress(Stage.CHECK, step=0, total_steps=1)
    if not config.check:
        check = DraftCheck(skipped="it was imported without a check")
    elif not read.target.has_weights:
        check = DraftCheck(
            skipped=f"the weights of {read.target.model} are not on this machine; bring them there, then "
            "`eda drafts check` measures it"
        )
    else:
        connect()
        waiting = require_gpus(int(config.use_gpu))
        if waiting is not None:
            run.event("waiting_for_gpus", waiting, stage=Stage.CHECK, level="warning")
        check = ray.get(_check.options(num_gpus=int(config.use_gpu)).remote(run.root, config, read))
    run.event("draft_checked", check.advice, stage=Stage.CHECK, level="warning" if _is_notable(check) else "info")
    run.progress(Stage.CHECK, step=1, total_steps=1)
    return CheckFields(inputs={entry.path: entry.sha256 for entry in read.files}, check=check)


def run_register(run: RunDir, config: ImportConfig) -> RegisterFields:
    """Register the staged draft as the next version of its name; a repeated call returns the same version.

    Raises:
        ConflictError: Another draft was registered under the number that was reserved for it.
    """
    run.progress(Stage.PUBLISH, step=0, total_steps=1)
    read, checked = run.require(ReadRecord), run.require(CheckRecord)
    name = config.draft_name
    check = checked.check
    if checked.inputs != {entry.path: entry.sha256 for entry in read.files}:
        check = run_check(run, config).check  # the other one has files that have been read again since
    version = reserve_draft(name, run.job_id)
    manifest = _manifest(config, read, check, version)
    if not has_draft(name, version):
        _publish(run, read.files, manifest)
    elif find_draft_manifest(f"{name}@{version}").files != manifest.files:
        raise ConflictError(
            f"{name}@{version} was registered by somebody else while this import ran; import it again", param="name"
        )
    run.progress(Stage.PUBLISH, step=1, total_steps=1)
    return RegisterFields(
        inputs={entry.path: entry.sha256 for entry in manifest.files}, draft=f"{manifest.name}@{manifest.version}"
    )


def _publish(run: RunDir, files: tuple[FileEntry, ...], manifest: DraftManifest) -> None:
    run.store.fetch(Stage.READ, files)
    staging = stage_draft(manifest.name, manifest.version)
    try:
        for entry in files:
            _place(run.stage_dir(Stage.READ) / entry.path, staging / Path(entry.path).name)
        write_json(staging / "manifest.json", manifest.model_dump(mode="json"))
        publish_draft(staging, manifest.name, manifest.version)
    finally:
        discard(staging)


def _manifest(config: ImportConfig, read: ReadRecord, check: DraftCheck, version: int) -> DraftManifest:
    files = tuple(entry.model_copy(update={"path": Path(entry.path).name, "transient": False}) for entry in read.files)
    return DraftManifest(
        name=config.draft_name,
        version=version,
        created_at=int(time.time()),
        hidden_size=read.target.hidden_size,
        vocab_size=read.target.vocab_size,
        tokenizer_sha256=read.target.tokenizer_sha256,
        files=files,
        trained_on=f"unknown: imported from {read.source}, for {read.target.model}",
        num_train_tokens=0,
        config=config.model_dump(mode="json"),
        library_versions=library_versions(),
        metrics=_metrics(check),
        kind=read.kind,
        source=read.source,
        dialect=read.dialect,
        assumed=read.assumed,
        overrides=config.overrides,
        check=check,
    )


def _metrics(check: DraftCheck) -> dict[str, float]:
    if check.declared is None or check.best is None:
        return {}
    return {
        "check.acceptance_length": check.declared.acceptance_length,
        "check.best_acceptance_length": check.best.acceptance_length,
    }


def _require_room(directory: Path, source: Path) -> None:
    """Check the disk space: the staged draft is as large as its source, and converted files need space for a while."""
    sizes = [path.stat().st_size for path in source.iterdir() if path.suffix in {".safetensors", ".bin"}]
    require_free_bytes(directory, 2 * sum(sizes), param="source")


def _empty(directory: Path) -> Path:
    discard(directory)
    directory.mkdir()
    return directory


def _place(source: Path, destination: Path) -> None:
    """Link a finished file to a second name; copy it if the two places are on different disks."""
    try:
        os.link(source, destination)
    except OSError:
        shutil.copyfile(source, destination)


def _is_notable(check: DraftCheck) -> bool:
    return check.declared is None or check.is_misread


def _unknown(base: BaseModel) -> tuple[str, ...]:
    if base.tokenizer_sha256:
        return ()
    return (f"tokenizer = that of {base.model}: it is not here, so that no target is held against it",)


def _target_of(base: BaseModel) -> ImportTarget:
    return ImportTarget(
        model=base.model,
        revision=base.revision,
        model_type=base.config.model_type,
        hidden_size=base.config.hidden_size,
        vocab_size=base.config.vocab_size,
        num_layers=base.config.num_hidden_layers,
        tokenizer_sha256=base.tokenizer_sha256,
        has_weights=base.resolved is not None,
    )


@ray.remote(num_cpus=MODEL_CPUS, max_retries=2)
def _check(run_root: Path, config: ImportConfig, read: ReadRecord) -> DraftCheck:
    limit_threads(config.threads)
    run = RunDir(run_root)
    run.store.fetch(Stage.READ, read.files)
    # At the commit that the draft was read for; this may be another machine than the one that read it.
    spec = config.target.model_copy(update={"revision": read.target.revision})
    if find_base(spec).resolved is None:
        return DraftCheck(skipped=f"the weights of {read.target.model} are not on the machine that was to measure it")
    device = choose_device("cuda" if config.use_gpu else "cpu")
    return check_staged(run.stage_dir(Stage.READ) / _STAGED, spec, device=device, num_prompts=config.num_check_prompts)


def _forget_staged(run: RunDir) -> None:
    """Delete the staged files, which the registry has now."""
    read: Any = run.read_record(ReadRecord, Stage.READ, verify=False)
    if read is not None:
        run.store.forget(Stage.READ, read.files)


READ = StageRunner(ReadRecord, part=lambda config: config, run=run_read)
CHECK = StageRunner(CheckRecord, part=lambda config: config, run=run_check)
REGISTER = StageRunner(RegisterRecord, part=lambda config: config, run=run_register, afterwards=_forget_staged)
IMPORTING = (READ, CHECK, REGISTER)
"""The stages of an import, in their order."""
