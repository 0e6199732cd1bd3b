"""The small JSON files of a run directory, each one frozen value: validated when it is read, a value from then on.

A field of a newer version is left out by an older one that reads the file, which has to live with it; what an older
version did not write has a default. What is wrong in another way is a `ValidationError`, which is a `ValueError`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal, NotRequired, TypedDict, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from eda_service.config.tasks import AnyTask
from eda_service.errors import EdaError
from eda_service.records import FileEntry, SampleScore, SkippedRow
from eda_service.storage.runs.job_row_fields import JobRowFields


def _is_none(value: object) -> bool:
    return value is None


class JsonFile(BaseModel):
    """What a file holds.

    Attributes:
        FILE: Its name, below the run directory.
    """

    FILE: ClassVar[str]


class StateFile(JsonFile):
    """A file that holds one object."""

    model_config = ConfigDict(frozen=True, extra="ignore")


StateT = TypeVar("StateT", bound=JsonFile)


class JobFile(StateFile):
    """Who asked for what; the directory counts as a job once this file is there.

    Attributes:
        id: The job's; empty in a file that was made by hand.
        origin: `api`, or another word for whoever started the job.
        created_at: When, in seconds since the epoch.
        config: What to do, of whichever kind.
        row_fields: What else its row said, beside the other fields in the file; None where a version wrote it that did
            not keep that.
    """

    FILE = "job.json"

    id: str = ""
    origin: str = ""
    created_at: int
    config: AnyTask
    row_fields: JobRowFields | None = None

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, value: Any) -> Any:
        if isinstance(value, dict) and "owner" in value:
            return {**value, "row_fields": value}
        return value

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        return value | (value.pop("row_fields", None) or {})


class EventLine(TypedDict):
    """A line of `events.jsonl`.

    Attributes:
        at: In seconds since the epoch.
        took_s: How long what it tells of took, where that was measured.
    """

    at: int
    level: str
    type: str
    message: str
    stage: str | None
    took_s: NotRequired[float]


class StageProgress(StateFile):
    """A heartbeat.

    Attributes:
        attempt: Whose it is.
        eta_s: Seconds to the end of the stage; None: not known.
        percent: Of the stage, 0..100.
        pid: The driver's process.
        stage: The stage.
        stage_started_at: In seconds since the epoch.
        step: Steps done.
        total_steps: Of so many.
        updated_at: In seconds since the epoch.
    """

    FILE = "progress.json"

    attempt: int = 1
    eta_s: int | None = None
    percent: float = 0.0
    pid: int | None = None
    stage: str
    stage_started_at: int | None = None
    step: int = 0
    total_steps: int = 0
    updated_at: int = 0

    def as_row(self) -> dict[str, Any]:
        """What the job's row keeps: what the file says."""
        return self.model_dump(mode="json", exclude_unset=True)


class Failure(BaseModel):
    """An error as a result and a row keep it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    message: str
    param: str | None = None
    retryable: bool = False

    @classmethod
    def of(cls, error: EdaError) -> Failure:
        """What is kept of an error."""
        return cls(code=error.code, message=error.message, param=error.param, retryable=error.retryable)


class Succeeded(StateFile):
    """End of an attempt that went well.

    Attributes:
        pack: What an adaptation published, as name@version.
        result: What a job of another kind ended with: a draft as name@version, or a measurement's id.
    """

    FILE = "result.json"

    status: Literal["succeeded"] = "succeeded"
    pack: str | None = Field(None, exclude_if=_is_none)
    result: str | None = Field(None, exclude_if=_is_none)
    attempt: int = 1
    finished_at: int = 0

    @model_validator(mode="after")
    def _says_what(self) -> Succeeded:
        if (self.pack is None) is (self.result is None):
            raise ValueError("a result names a pack, or what another kind of job ended with")
        return self


class Failed(StateFile):
    """End of an attempt: it failed with a code."""

    FILE = "result.json"

    status: Literal["failed"] = "failed"
    error: Failure
    attempt: int = 1
    finished_at: int = 0


class AttemptResult(RootModel[Annotated[Succeeded | Failed, Field(discriminator="status")]], JsonFile):
    """`result.json`: either."""

    FILE = Succeeded.FILE


class Cancelled(StateFile):
    """The attempt that was cancelled."""

    FILE = "cancelled.json"

    attempt: int = 0


class Prepared(StateFile):
    """What exists before shards are generated, and what it took.

    Attributes:
        files: What preparation wrote, where other machines find it by this; without them it lies in the directory.
    """

    FILE = "generate/prepare.json"

    gate_seconds: float = Field(0.0, exclude_if=lambda seconds: not seconds)
    reference_seconds: float = 0.0
    reference_fit_seconds: float = 0.0
    num_reference_tokens: int = 0
    num_prompts: int = 0
    num_heldout: int = 0
    generation_defaults: dict[str, Any] = {}
    files: tuple[FileEntry, ...] | None = None

    @model_serializer(mode="wrap")
    def _files_where_named(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        value: dict[str, Any] = handler(self)
        if self.files is None:
            value.pop("files", None)
        return value


class ShardResult(BaseModel):
    """What has become of one shard: its file is written after the shard's own."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    num_samples: int
    num_tokens: int
    skipped: tuple[SkippedRow, ...]
    scores: tuple[SampleScore, ...]
    files: tuple[FileEntry, ...]
    generation_seconds: float
    scoring_seconds: float


class Forgotten(StateFile):
    """The generate stage's hidden states are deleted from storage."""

    FILE = "select/forgotten.json"

    freed_bytes: int


class Best(StateFile):
    """The best weights so far, where other machines find them by this."""

    FILE = "train/best.json"

    files: tuple[FileEntry, ...]


class Trained(StateFile):
    """How a worker group ended: with weights.

    Attributes:
        step: Optimizer steps taken.
        best_step: Step of the best checkpoint.
        best_acceptance: Its simulated acceptance length.
        initial_acceptance: The same before the first step: the base draft's.
        restarts: Times the worker group was resumed.
        seconds: In the loop, all starts together.
        frozen_before: Hash over the draft's frozen tensors before training.
        frozen_after: The same after it.
    """

    FILE = "train/outcome.json"

    step: int
    best_step: int
    best_acceptance: float
    initial_acceptance: float
    restarts: int = 0
    seconds: float = 0.0
    frozen_before: str
    frozen_after: str


class Diverged(StateFile):
    """How a worker group ended: the loss left the numbers; `failure` says where."""

    FILE = "train/outcome.json"

    failure: str


class TrainOutcome(RootModel[Trained | Diverged], JsonFile):
    """`train/outcome.json`: either."""

    FILE = Trained.FILE


def encoded(value: BaseModel) -> bytes:
    """A file's content: indented, its keys in order."""
    return (json.dumps(value.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode("utf-8")


def compact(value: BaseModel) -> bytes:
    """The same value in as few bytes as JSON has for it, its keys as they are declared."""
    return json.dumps(value.model_dump(mode="json")).encode("utf-8")
