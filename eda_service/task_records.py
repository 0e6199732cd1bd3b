"""Records of jobs that are not adaptations: importing a draft (read, check, publish) and measuring one."""

from __future__ import annotations

from pydantic import Field

from eda_service.draft_check import DraftCheck
from eda_service.measured_rows import Frozen
from eda_service.measurement import Measurement
from eda_service.records import Record, Stage, StageFields, TargetFingerprint


class ImportTarget(Frozen):
    """What a draft is held against: the model it is for, as far as it is known where the draft is read."""

    model: str
    revision: str | None
    model_type: str
    hidden_size: int
    vocab_size: int
    num_layers: int
    tokenizer_sha256: str = Field(description="empty where its tokenizer is not here")
    has_weights: bool = Field(description="whether it can be asked for answers here")


class ReadFields(StageFields):
    """What stage read says itself; its files are the draft as it will be registered."""

    target: ImportTarget
    source: str
    kind: str
    dialect: str
    assumed: tuple[str, ...]


class ReadRecord(ReadFields, Record):
    """A draft was read in its dialect and staged."""

    STAGE = Stage.READ


class CheckFields(StageFields):
    """What stage check says itself."""

    check: DraftCheck


class CheckRecord(CheckFields, Record):
    """It was measured over answers of its target, or it is said why not."""

    STAGE = Stage.CHECK


class RegisterFields(StageFields):
    """What the last stage of an import says itself."""

    draft: str = Field(description="name@version")


class RegisterRecord(RegisterFields, Record):
    """It is registered."""

    STAGE = Stage.PUBLISH


class MeasureFields(StageFields):
    """What stage measure says itself."""

    target: TargetFingerprint
    draft: str
    pack: str | None
    measurement: Measurement


class MeasureRecord(MeasureFields, Record):
    """The result of a measurement."""

    STAGE = Stage.MEASURE
