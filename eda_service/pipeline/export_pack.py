"""Export of a pack for another engine, to be downloaded: one stage, in one Ray task.

The files are those of `eda export`, and beside them the command that serves them, as it is typed where they were
unpacked: it names no directory of this service.
"""

from __future__ import annotations

from pathlib import Path

import ray

from eda_service.config.job import TargetSpec
from eda_service.config.tasks import ExportConfig
from eda_service.drafts.dialects.record import Dialect
from eda_service.export.calibration import CalibrationSettings
from eda_service.export.command import ServedTarget, serve_command, serving_needs
from eda_service.export.export import Exported, ExportRequest, export_draft
from eda_service.names import is_model_id
from eda_service.pipeline.driver import drive
from eda_service.pipeline.stage import StageRunner
from eda_service.planning.placement import MODEL_CPUS
from eda_service.raycluster.resources import connect, limit_threads
from eda_service.records import Stage
from eda_service.storage.files import file_entry
from eda_service.storage.published.registry import discard, find_pack_manifest
from eda_service.storage.runs.run import RunDir
from eda_service.targets.files.resolve import is_ours, resolve_target
from eda_service.task_records import EXPORTED, ExportFields, ExportRecord

COMMAND = "SERVE.txt"
_TARGET, _MERGED = "TARGET", "MERGED_TARGET"


def export_pack(run: RunDir, config: ExportConfig) -> ExportRecord:
    """Run the only stage of an export, which ends with `result.json`.

    Raises:
        EdaError: Whatever failed; `result.json` then carries its code.
    """

    def ended(record: ExportRecord) -> None:
        run.event("pack_exported", f"{record.pack} as {config.form} for {config.to}", stage=Stage.EXPORT)
        run.succeed_with(run.job_id)

    return drive(run, config, EXPORTING, ExportRecord, ended)


def run_export(run: RunDir, config: ExportConfig) -> ExportFields:
    """Write the export and the command that serves it.

    Raises:
        NotFoundError: The pack is gone.
        TargetNotFoundError, TargetIncompatibleError: The target, or the engine would compute something else.
        InputError: The dialect is none that the engine reads.
        ArtifactCorruptError: A source is damaged.
    """
    run.progress(Stage.EXPORT, step=0, total_steps=1)
    connect()
    pack = find_pack_manifest(config.pack).pack
    fields: ExportFields = ray.get(_export.remote(run.root, config.model_copy(update={"pack": pack})))
    run.progress(Stage.EXPORT, step=1, total_steps=1)
    return fields


@ray.remote(num_cpus=MODEL_CPUS, max_retries=2)
def _export(run_root: Path, config: ExportConfig) -> ExportFields:
    limit_threads(config.threads)
    return write_export(RunDir(run_root), config)


def write_export(run: RunDir, config: ExportConfig) -> ExportFields:
    """The export in the run directory.

    Args:
        run: Run directory of the job.
        config: Config of the export, whose pack has a version.
    """
    directory = run.stage_dir(Stage.EXPORT)
    out = directory / EXPORTED
    discard(out)
    request = ExportRequest(
        reference=config.pack,
        destination=config.to,
        form=config.form,
        out=out,
        target=config.target,
        dialect=None if config.dialect is None else Dialect(config.dialect),
        calibration=CalibrationSettings(num_prompts=config.num_prompts, num_draft_tokens=config.num_draft_tokens),
    )
    made = export_draft(request, home=run.home)
    command, needs = served_elsewhere(made, config, config.archive_name)
    (out / COMMAND).write_text(_told(command, needs), encoding="utf-8")
    files = tuple(file_entry(directory, path, transient=True) for path in sorted(out.iterdir()))
    run.store.upload(Stage.EXPORT, files)
    calibration = made.eda_config.calibration
    return ExportFields(
        inputs=made.eda_config.source_sha256,
        files=files,
        pack=config.pack,
        target=made.eda_config.verifier,
        dialect=made.eda_config.dialect,
        serve_command=command,
        needs=needs,
        acceptance_length=None if calibration is None else calibration.acceptance_length,
        exported_acceptance_length=None if calibration is None else calibration.exported_acceptance_length,
    )


def served_elsewhere(made: Exported, config: ExportConfig, directory: str) -> tuple[str, tuple[str, ...]]:
    """The command for a machine that is not the service's, and what has to be so there.

    Args:
        made: The export.
        config: Config of the export.
        directory: Path of the export, as the command names it.
    """
    target, blank = _elsewhere(config.target)
    command = serve_command(Path(directory), target, made.eda_config, config.num_draft_tokens)
    return command, (*blank, *serving_needs(made.eda_config, command))


def _elsewhere(spec: TargetSpec) -> tuple[ServedTarget, tuple[str, ...]]:
    """A target as another machine names it; what lies only on this one is a blank, and it is said what goes there."""
    found = resolve_target(spec)
    if found.adapter_dir is not None:
        what = " with the adapter ".join(map(_label, filter(None, (spec.model, spec.adapter))))
        merged = f"{_MERGED} is a directory with {what}, merged; `eda export ... --merged-target DIR` writes it"
        return ServedTarget(_MERGED), (f"{merged} on the service's machine",)
    if is_model_id(spec.model) and not is_ours(spec.model):
        return ServedTarget(spec.model, found.revision), ()
    return ServedTarget(_TARGET), (f"{_TARGET} is the directory of {_label(spec.model)} on that machine",)


def _label(name: str) -> str:
    """A model's name without the directories that it lies in on this machine."""
    return Path(name).name if name.startswith(("/", "~", ".")) else name


def _told(command: str, needs: tuple[str, ...]) -> str:
    return "\n".join(["Type this in the directory where the archive was unpacked:", "", command, "", *needs]) + "\n"


EXPORT = StageRunner(ExportRecord, part=lambda config: config, run=run_export)
EXPORTING = (EXPORT,)
"""The stages of an export."""
