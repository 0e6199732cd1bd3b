"""Stage publish: the trained part becomes `name@version` in the registry, whole, hashed and once."""

from __future__ import annotations

import shutil
import time

from eda_service.config.job import AdaptConfig
from eda_service.errors import AcceptanceRegressionError, ArtifactCorruptError
from eda_service.records import (
    ADAPTED,
    DraftCheckpoint,
    EvalReport,
    FixedScores,
    PackManifest,
    PackMetrics,
    RivalScore,
    SelectionManifest,
    Stage,
    ValidateRecord,
)
from eda_service.storage.files import file_entry, write_json
from eda_service.storage.packs import PROMPTS, timed_temperature
from eda_service.storage.provenance import library_versions
from eda_service.storage.registry import discard, publish_pack, read_pack_manifest, reserve_version, stage_pack
from eda_service.storage.run import RunDir


def run_publish(run: RunDir, config: AdaptConfig) -> PackManifest:
    """Publish the pack; a second call for the same job finds the version it published.

    Raises:
        ArtifactCorruptError: An earlier record is missing.
        AcceptanceRegressionError: The adapted draft is below `min_acceptance_ratio` of the base draft.
    """
    started = time.monotonic()
    run.progress(Stage.PUBLISH, step=0, total_steps=1)
    validated = run.read_record(ValidateRecord, Stage.VALIDATE)
    selected = run.read_record(SelectionManifest, Stage.SELECT)
    trained = run.read_record(DraftCheckpoint, Stage.TRAIN)
    report = run.read_record(EvalReport, Stage.EVALUATE)
    if validated is None or selected is None or trained is None or report is None:
        raise ArtifactCorruptError(f"{run.root} lacks a record; run the stages before publish first")
    metrics = PackMetrics.of(report, trained, selected)
    if metrics.acceptance_ratio < config.min_acceptance_ratio:
        raise AcceptanceRegressionError(
            f"the adapted draft's acceptance_length is {metrics.acceptance_ratio:.3f} of the base draft's, "
            f"min_acceptance_ratio is {config.min_acceptance_ratio}; train longer, or lower the limit"
        )
    name = config.public_name
    version = reserve_version(name, run.job_id)
    staging = stage_pack(name, version)
    try:
        run.store.fetch(Stage.TRAIN, trained.files)
        for entry in trained.files:
            path = run.stage_dir(Stage.TRAIN) / entry.path
            shutil.copyfile(path, staging / path.name)
        manifest = PackManifest(
            stage=Stage.PUBLISH,
            created_at=int(time.time()),
            seconds=time.monotonic() - started,
            config=config.model_dump(mode="json"),
            seed=config.seed,
            library_versions=library_versions(),
            inputs={"base_draft": validated.base_draft_sha256, PROMPTS: validated.prompts_sha256}
            | {entry.path: entry.sha256 for entry in trained.files},
            files=tuple(file_entry(staging, path) for path in sorted(staging.iterdir())),
            pack=f"{name}@{version}",
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
            fixed=_own_name(report.fixed, f"{name}@{version}"),
        )
        write_json(staging / "manifest.json", manifest.model_dump(mode="json"))
        published = read_pack_manifest(publish_pack(staging, name, version))
    finally:
        discard(staging)
    run.progress(Stage.PUBLISH, step=1, total_steps=1)
    return published


def rival_scores(report: EvalReport, config: AdaptConfig) -> tuple[RivalScore, ...]:
    """What the report says of the packs that were measured beside the new one, where packs are compared."""
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
    """The scores with the job's own pack under the name that it is published as."""
    if fixed is None:
        return None
    lengths = {pack if draft == ADAPTED else draft: length for draft, length in fixed.lengths.items()}
    return fixed.model_copy(update={"lengths": lengths})
