"""Stage publish: the trained part becomes `name@version` in the registry, whole, hashed and once."""

from __future__ import annotations

import shutil
from pathlib import PurePosixPath

from eda_service.config.job import AdaptConfig
from eda_service.errors import AcceptanceRegressionError
from eda_service.pipeline.stage import StageRunner
from eda_service.records import (
    ADAPTED,
    DraftCheckpoint,
    EvalReport,
    FileEntry,
    FixedScores,
    PackFields,
    PackManifest,
    PackMetrics,
    RivalScore,
    SelectionManifest,
    Stage,
    ValidateRecord,
)
from eda_service.references import Reference
from eda_service.storage.files import write_json
from eda_service.storage.published.packs import PROMPTS, timed_temperature
from eda_service.storage.published.registry import (
    discard,
    publish_pack,
    read_pack_manifest,
    reserve_version,
    stage_pack,
)
from eda_service.storage.runs.run import RunDir


def run_publish(run: RunDir, config: AdaptConfig) -> PackFields:
    """Check that the trained part is good enough, and make its manifest; `register` publishes it.

    Raises:
        ArtifactCorruptError: An earlier record is missing.
        AcceptanceRegressionError: The adapted draft is below `min_acceptance_ratio` of the base draft.
    """
    run.progress(Stage.PUBLISH, step=0, total_steps=1)
    validated, selected = run.require(ValidateRecord), run.require(SelectionManifest)
    trained, report = run.require(DraftCheckpoint), run.require(EvalReport)
    metrics = PackMetrics.of(report, trained, selected)
    if metrics.acceptance_ratio < config.min_acceptance_ratio:
        raise AcceptanceRegressionError(
            f"the adapted draft's acceptance_length is {metrics.acceptance_ratio:.3f} of the base draft's, "
            f"min_acceptance_ratio is {config.min_acceptance_ratio}; train longer, or lower the limit"
        )
    run.store.fetch(Stage.TRAIN, trained.files)
    pack = str(Reference(config.public_name, reserve_version(config.public_name, run.job_id)))
    return PackFields(
        inputs={"base_draft": validated.base_draft_sha256, PROMPTS: validated.prompts_sha256}
        | {entry.path: entry.sha256 for entry in trained.files},
        files=tuple(sorted(map(_in_pack, trained.files), key=lambda entry: entry.path)),
        pack=pack,
        method=config.train.method.value,
        base_draft=validated.base_draft,
        base_draft_sha256=validated.base_draft_sha256,
        target=validated.target,
        num_parameters=trained.num_parameters,
        num_trainable=trained.num_trainable,
        metrics=metrics,
        measured_on=report.measured_on,
        rivals=rival_scores(report, config),
        unmeasured_rivals={each.pack: each.left_out for each in report.rivals if each.left_out is not None},
        fixed=_own_name(report.fixed, pack),
    )


def register(run: RunDir, manifest: PackManifest) -> PackManifest:
    """Make a pack visible in the registry, whole; a second call for the same job finds the version it published."""
    pack = Reference.parse(manifest.pack)
    assert pack is not None
    assert pack.number is not None
    staging = stage_pack(pack.name, pack.number)
    try:
        for entry in manifest.files:
            shutil.copyfile(run.stage_dir(Stage.TRAIN) / "pack" / entry.path, staging / entry.path)
        write_json(staging / "manifest.json", manifest.model_dump(mode="json"))
        published = read_pack_manifest(publish_pack(staging, pack.name, pack.number))
    finally:
        discard(staging)
    run.progress(Stage.PUBLISH, step=1, total_steps=1)
    return published


def _in_pack(entry: FileEntry) -> FileEntry:
    """Return the entry of a file of stage train as the pack's manifest names it."""
    return FileEntry(path=PurePosixPath(entry.path).name, sha256=entry.sha256, size_bytes=entry.size_bytes)


def rival_scores(report: EvalReport, config: AdaptConfig) -> tuple[RivalScore, ...]:
    """Return the report's scores of the packs that were measured beside the new one, on the prompts used for
    comparison.
    """
    first, timed = report.acceptance[0].temperature, timed_temperature(config)
    found = []
    for rival in report.rivals:
        lengths = [row.acceptance_length for row in rival.acceptance if row.temperature == first]
        speeds = [row.speedup_over_autoregressive for row in rival.speed if row.temperature == timed]
        if lengths:
            found.append(
                RivalScore(pack=rival.pack, acceptance_length=lengths[0], speedup=speeds[0] if speeds else None)
            )
    return tuple(found)


def _own_name(fixed: FixedScores | None, pack: str) -> FixedScores | None:
    """Return the scores with the job's own pack under its published name."""
    if fixed is None:
        return None
    lengths = {pack if draft == ADAPTED else draft: length for draft, length in fixed.lengths.items()}
    return fixed.model_copy(update={"lengths": lengths})


PUBLISH = StageRunner(PackManifest, part=lambda config: config, run=run_publish, keep=register)
