"""Records of jobs that are not adaptations: the import of a draft, a measurement, and the export of a pack."""

from __future__ import annotations

from pydantic import Field

from eda_service.draft_check import DraftCheck
from eda_service.measured_rows import Frozen
from eda_service.measurement import Measurement
from eda_service.records import Record, Stage, StageFields, TargetFingerprint


class ImportTarget(Frozen):
    """The known facts of the model that a draft is for, at the time the draft is read."""

    model: str
    revision: str | None
    model_type: str
    hidden_size: int
    vocab_size: int
    num_layers: int
    tokenizer_sha256: str = Field(description="empty where its tokenizer is not here")
    has_weights: bool = Field(description="whether it can be asked for answers here")


class ReadFields(StageFields):
    """Fields of stage read; its files are the draft as it will be registered."""

    target: ImportTarget
    source: str
    kind: str
    dialect: str
    assumed: tuple[str, ...]


class ReadRecord(ReadFields, Record):
    """A draft was read in its dialect and staged."""

    STAGE = Stage.READ


class CheckFields(StageFields):
    """Fields of stage check."""

    check: DraftCheck


class CheckRecord(CheckFields, Record):
    """The draft was measured over answers of its target, or the record has the reason why not."""

    STAGE = Stage.CHECK


class RegisterFields(StageFields):
    """Fields of the last stage of an import."""

    draft: str = Field(description="name@version")


class RegisterRecord(RegisterFields, Record):
    """The draft is registered."""

    STAGE = Stage.PUBLISH


class MeasureFields(StageFields):
    """Fields of stage measure."""

    target: TargetFingerprint
    draft: str
    pack: str | None
    measurement: Measurement


class MeasureRecord(MeasureFields, Record):
    """The result of a measurement."""

    STAGE = Stage.MEASURE


EXPORTED = "files"
"""Directory of what an export wrote, below that of its stage."""


class ExportFields(StageFields):
    """Result that stage export writes; its files are the export, which is kept for a while."""

    pack: str = Field(description="name@version")
    target: TargetFingerprint
    dialect: str | None = Field(description="how an EAGLE-3 draft was written")
    serve_command: str = Field(description="for a shell in the directory where the export was unpacked")
    needs: tuple[str, ...] = Field(description="what has to be so where the command is typed, one sentence each")
    acceptance_length: float | None = Field(description="of the pack, where the form changes it")
    exported_acceptance_length: float | None = Field(description="of the export, on the same answers")


class ExportRecord(ExportFields, Record):
    """A pack was written as another engine loads it."""

    STAGE = Stage.EXPORT
