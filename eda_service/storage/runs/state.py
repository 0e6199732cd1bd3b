"""The small JSON files of a run directory, each one frozen value, validated when it is read.

A field of a newer version is ignored by an older one that reads the file; a field that an older version did not write
has a default. Any other mistake is a `ValidationError`, which is a `ValueError`.
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
    """The content of a file.

    Attributes:
        FILE: Name of the file, below the run directory.
    """

    FILE: ClassVar[str]


class StateFile(JsonFile):
    """A file that holds one object."""

    model_config = ConfigDict(frozen=True, extra="ignore")


StateT = TypeVar("StateT", bound=JsonFile)


class JobFile(StateFile):
    """The job and its origin; the directory counts as a job once this file exists.

    Attributes:
        id: Id of the job; empty in a file that was made by hand.
        origin: The word `api`, or another word for the starter of the job.
        created_at: Time of creation, in seconds since the epoch.
        config: Config of the job, of any kind.
        row_fields: Further contents of its row, stored beside the other fields in the file; None if an earlier version
            wrote the file without them.
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
        at: Time of the event, in seconds since the epoch.
        took_s: Seconds that the reported action took, if they were measured.
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
        attempt: Number of the attempt.
        eta_s: Seconds to the end of the stage; None: unknown.
        percent: Progress of the stage, 0..100.
        pid: Id of the driver's process.
        stage: Current stage.
        stage_started_at: Start of the stage, in seconds since the epoch.
        step: Number of steps done.
        total_steps: Number of steps of the stage.
        updated_at: Time of the heartbeat, in seconds since the epoch.
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
        """Return the values that the job's row keeps."""
        return self.model_dump(mode="json", exclude_unset=True)


class Failure(BaseModel):
    """An error as a result and a row store it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    message: str
    param: str | None = None
    retryable: bool = False

    @classmethod
    def of(cls, error: EdaError) -> Failure:
        """Make it from an error."""
        return cls(code=error.code, message=error.message, param=error.param, retryable=error.retryable)


class Succeeded(StateFile):
    """The result of an attempt that succeeded.

    Attributes:
        pack: Pack that an adaptation published, as name@version.
        result: Result of a job of another kind: a draft as name@version, or a measurement's id.
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
    """The result of an attempt that failed, with the error's code."""

    FILE = "result.json"

    status: Literal["failed"] = "failed"
    error: Failure
    attempt: int = 1
    finished_at: int = 0


class AttemptResult(RootModel[Annotated[Succeeded | Failed, Field(discriminator="status")]], JsonFile):
    """The content of `result.json`: `Succeeded` or `Failed`."""

    FILE = Succeeded.FILE


class Cancelled(StateFile):
    """The attempt that was cancelled."""

    FILE = "cancelled.json"

    attempt: int = 0


class Prepared(StateFile):
    """Facts about the preparation before shards are generated, and its time.

    Attributes:
        files: Files that preparation wrote, by which other machines find them; None: they are in the directory.
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
    """The result of one shard; its file is written after the shard's own files."""

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
    """The best weights so far, with the entries by which other machines find them."""

    FILE = "train/best.json"

    files: tuple[FileEntry, ...]


class Trained(StateFile):
    """The outcome of a worker group that trained weights.

    Attributes:
        step: Number of optimizer steps taken.
        best_step: Step of the best checkpoint.
        best_acceptance: Simulated acceptance length of the best checkpoint.
        initial_acceptance: Simulated acceptance length of the base draft, before the first step.
        restarts: Number of times the worker group was resumed.
        seconds: Seconds in the training loop, over all starts.
        frozen_before: Hash over the draft's frozen tensors before training.
        frozen_after: Hash over the draft's frozen tensors after training.
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
    """The outcome of a worker group whose loss became NaN or infinite; `failure` has the details."""

    FILE = "train/outcome.json"

    failure: str


class TrainOutcome(RootModel[Trained | Diverged], JsonFile):
    """The content of `train/outcome.json`: `Trained` or `Diverged`."""

    FILE = Trained.FILE


def encoded(value: BaseModel) -> bytes:
    """Encode a file's content: indented, its keys in order."""
    return (json.dumps(value.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode("utf-8")


def compact(value: BaseModel) -> bytes:
    """Encode a value in as few bytes as JSON allows, its keys as they are declared."""
    return json.dumps(value.model_dump(mode="json")).encode("utf-8")
