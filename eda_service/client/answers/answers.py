"""What the service answers. Unknown fields are ignored, so an older client works with a newer service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})

T = TypeVar("T")


class Answer(BaseModel):
    """A part of an answer; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Progress(Answer):
    """Progress of a job's current stage."""

    percent: float
    step: int
    total_steps: int
    eta_s: int | None = None
    updated_at: int = 0


class JobError(Answer):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None
    retryable: bool = False


class DraftNumbers(Answer):
    """What one draft did on the tuned target; speeds are None where they were not measured."""

    acceptance_length: float
    acceptance_rate: float
    tokens_per_s: float | None = None
    speedup: float | None = None


class Cost(Answer):
    """What a job took; `disk_bytes` is None in lists."""

    seconds: float
    core_hours: float
    gpu_hours: float
    disk_bytes: int | None = None


class Outcome(Answer):
    """What came of a job: the base draft before, the adapted one after, what was measured on, and the cost."""

    before: DraftNumbers
    after: DraftNumbers
    temperature: float
    timed_temperature: float | None = None
    plain_tokens_per_s: float | None = None
    measured_on: str = ""
    cost: Cost


class Remaining(Answer):
    """How long a running job still takes, in seconds; `num_jobs` earlier jobs say so."""

    low_s: int
    high_s: int
    num_jobs: int = 0


class Adaptation(Answer):
    """One job."""

    id: str
    status: str
    stage: str | None = None
    progress: Progress | None = None
    model: str
    adapter: str | None = None
    base_draft: str
    served_name: str
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    attempt: int = 0
    max_attempts: int = 0
    priority: int = 50
    metadata: dict[str, str] = {}
    result_pack: str | None = None
    measured_on: str = ""
    waits_for: str | None = None
    elapsed_s: int | None = None
    remaining: Remaining | None = None
    outcome: Outcome | None = None
    error: JobError | None = None
    config: dict[str, Any] = {}

    @property
    def is_terminal(self) -> bool:
        """Whether the job will not change any more by itself."""
        return self.status in TERMINAL


class JobEvent(Answer):
    """Something that happened to a job."""

    id: str
    created_at: int
    level: str
    type: str
    message: str
    stage: str | None = None


class StageNeed(Answer):
    """What one stage asks Ray for (`cpus`, `gpus` and `threads` of each worker), and what it takes."""

    stage: str
    placement: str
    workers: int
    cpus: float
    gpus: int
    threads: int
    memory_bytes: int
    disk_bytes: int
    seconds: float
    host_memory_bytes: int = 0
    nodes: int = 1
    seconds_low: float | None = None
    seconds_high: float | None = None


class ExpectedTime(Answer):
    """How long a job takes, in seconds, as a range; `num_jobs` earlier jobs say so."""

    low: float
    median: float
    high: float
    num_jobs: int = 0


class TargetSplit(Answer):
    """How vLLM parts a target over `devices` of an engine; `room_bytes` is what it may take of each."""

    engine: str
    devices: int
    nodes: int
    weight_bytes: int
    cache_bytes: int
    room_bytes: int | None = None


class Estimate(Answer):
    """What a job would need, before anything is queued. `seconds` has one entry per part, and `total`."""

    device: str = "unknown"
    stages: tuple[StageNeed, ...] = ()

    disk_bytes: int
    free_disk_bytes: int | None
    num_samples: int
    num_train_steps: int
    trainable_parameters: int
    seconds: dict[str, float | None] = {}
    fits: bool
    warnings: tuple[str, ...] = ()
    measured_on: str = ""
    target: TargetSplit | None = None
    expected: ExpectedTime | None = None


class LogChunk(Answer):
    """Lines of one stage's log; `next` is the byte offset that the following chunk begins at."""

    stage: str | None = None
    lines: tuple[str, ...] = ()
    next: int | None = None


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list; iterate over it, or take its length.

    Args:
        data: The items.
        has_more: Whether another page follows; ask for it with `after=last_id`.
        first_id: Id of the first item.
        last_id: Id of the last item.
    """

    data: tuple[T, ...]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> T:
        return self.data[place]
