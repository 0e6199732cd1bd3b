"""What a job has written down so far, stage by stage, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eda_service.errors import ArtifactCorruptError
from eda_service.records import (
    CurvePoint,
    DraftCheckpoint,
    EvalReport,
    SelectionManifest,
    SelfGenManifest,
    Stage,
    ValidateRecord,
)
from eda_service.storage.runs.curve import CURVE_FILE, Curve
from eda_service.storage.runs.run import RecordT, RunDir


@dataclass(frozen=True)
class JobRecords:
    """Records of the stages that are done; None for the others.

    Attributes:
        curve: Of training, also while it runs.
        unreadable: What could not be read, in words.
        disk_bytes: What each stage's directory holds; empty where that is not known.
    """

    validated: ValidateRecord | None
    generated: SelfGenManifest | None
    selected: SelectionManifest | None
    trained: DraftCheckpoint | None
    report: EvalReport | None
    curve: tuple[CurvePoint, ...]
    unreadable: tuple[str, ...]
    disk_bytes: Mapping[Stage, int] = field(default_factory=dict)


def read_records(run: RunDir) -> JobRecords:
    """Read a run directory. A record that does not parse is named, the others are read."""
    unreadable: list[str] = []

    def read(kind: type[RecordT], stage: Stage) -> RecordT | None:
        try:
            return run.read_record(kind, stage, verify=False)
        except ArtifactCorruptError:
            unreadable.append(f"the record of stage {stage.value} does not parse; the log has the path")
            return None

    trained = read(DraftCheckpoint, Stage.TRAIN)
    return JobRecords(
        validated=read(ValidateRecord, Stage.VALIDATE),
        generated=read(SelfGenManifest, Stage.GENERATE),
        selected=read(SelectionManifest, Stage.SELECT),
        trained=trained,
        report=read(EvalReport, Stage.EVALUATE),
        curve=running_curve(run) if trained is None else trained.curve,
        unreadable=tuple(unreadable),
        disk_bytes={stage: kept for stage in Stage if (kept := run.store.kept_bytes(stage.value))},
    )


def running_curve(run: RunDir) -> tuple[CurvePoint, ...]:
    """The points that training has written so far."""
    return tuple(Curve(run.store.shared(CURVE_FILE).parent).read())
