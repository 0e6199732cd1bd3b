"""Log lines of a stage: its start and settings, its steps with their numbers and times, its end with its counts.

The lines are for people. They hold names, numbers and times, but no prompts and no answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from eda_service.errors import StorageError
from eda_service.formatting import duration, size, value_word
from eda_service.records import (
    ADAPTED,
    BASE,
    CurvePoint,
    DraftCheckpoint,
    EvalReport,
    PackManifest,
    Record,
    SelectionManifest,
    SelfGenManifest,
    Stage,
    ValidateRecord,
)
from eda_service.repeating import Repeating
from eda_service.storage.runs.curve import CURVE_FILE, Curve
from eda_service.storage.runs.run import RunDir

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 2.0
_PROGRESS_EVERY_S = 10.0


def log_start(run: RunDir, stage: Stage, settings: Mapping[str, Any]) -> None:
    """Log the first lines of a stage: its job and its settings."""
    logger.info("stage %s of %s begins, attempt %d", stage.value, run.job_id, run.attempt)
    for name, value in _flat(settings if stage is not Stage.PUBLISH else {}):  # stages whose part is the whole config
        logger.info("  %s = %s", name, value)


def log_end(record: Record) -> None:
    """Log the last line of a stage: its duration and its counts."""
    said = "; ".join(counts_of(record))
    logger.info("stage %s took %s%s", record.stage.value, duration(record.seconds), f": {said}" if said else "")


def counts_of(record: Record) -> list[str]:
    """Describe the counts of a stage in words; empty for the stages of other kinds of jobs."""
    said: list[str] = []
    match record:
        case ValidateRecord():
            said = _validated(record)
        case SelfGenManifest():
            said = _generated(record)
        case SelectionManifest():
            said = _selected(record)
        case DraftCheckpoint():
            said = _trained(record)
        case EvalReport():
            said = [*_measured(record), _lossless(record)]
        case PackManifest():
            said = [f"published {record.pack}, {size(sum(entry.size_bytes for entry in record.files))}"]
    return said


def _validated(record: ValidateRecord) -> list[str]:
    return [
        f"{record.num_prompts:,} prompts and {record.num_eval_prompts:,} held out",
        f"base draft {record.base_draft}",
        f"target of {record.target.num_layers} layers, run by {record.engine.value}",
        f"at most {size(record.disk_need_bytes)} of {size(record.disk_free_bytes)} free disk",
    ]


def _generated(record: SelfGenManifest) -> list[str]:
    rate = record.num_answer_tokens / max(record.generation_seconds, 1e-9)
    of_reference = f"reference of {record.num_reference_tokens:,} tokens in {duration(record.reference_seconds)}"
    reference = [of_reference] if record.num_reference_tokens else []
    return [
        f"{record.num_samples:,} samples, {len(record.skipped):,} prompts skipped",
        f"{record.num_answer_tokens:,} answer tokens, {rate:,.0f} per second of decoding",
        *reference,
        f"measuring samples {duration(record.scoring_seconds)}",
    ]


def _selected(record: SelectionManifest) -> list[str]:
    at = "" if record.threshold is None else f", from {value_word(record.value_name)} {record.threshold:.3f} on"
    return [
        f"kept {record.num_selected:,} of {record.num_candidates:,} samples{at}",
        f"{record.num_answer_tokens:,} answer tokens to train on",
    ]


def _trained(record: DraftCheckpoint) -> list[str]:
    return [
        f"{record.num_steps:,} steps, the best after {record.best_step:,}",
        f"simulated acceptance {record.initial_simulated_acceptance_length:.3f} before, "
        f"{record.best_simulated_acceptance_length:.3f} at best",
        f"{record.num_trainable:,} of {record.num_parameters:,} parameters trained",
        f"{record.num_worker_restarts} restarts of workers",
    ]


def _measured(record: EvalReport) -> list[str]:
    lengths = {(row.draft, row.temperature): row.acceptance_length for row in record.acceptance}
    found = [
        f"T={temperature:g}: acceptance {lengths[BASE, temperature]:.3f} before, {length:.3f} after"
        for (draft, temperature), length in lengths.items()
        if draft == ADAPTED and (BASE, temperature) in lengths
    ]
    return [*found, *(f"{row.mode} at T={row.temperature:g}: {row.tokens_per_s:.1f} tokens/s" for row in record.speed)]


def _lossless(record: EvalReport) -> str:
    found = record.lossless
    return f"{found.num_identical} of {found.num_prompts} answers identical to decoding without a draft"


def log_point(point: CurvePoint, total_steps: int | None) -> None:
    """Log a point of the training curve as a line."""
    of = "" if total_steps is None else f" of {total_steps}"
    if point.simulated_acceptance_length is not None:
        said = f"simulated acceptance {point.simulated_acceptance_length:.3f} on held-out samples"
    else:
        said = (
            f"loss {point.loss:.4f} (regression {point.regression_loss:.4f}, cross entropy "
            f"{point.cross_entropy_loss:.4f}), learning rate {point.learning_rate:.2e}"
        )
    logger.info("step %d%s: %s, after %s", point.step, of, said, duration(point.seconds))


class CurveLog(Repeating):
    """Writes the points of a training curve into the driver's log as its workers add them.

    Workers may be on other machines, and a log has one writer: the driver, which reads the curve that they upload.
    """

    def __init__(self, run: RunDir) -> None:
        super().__init__("curve log", _LOOK_EVERY_S)
        self._run = run
        self._logged: list[CurvePoint] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.look()

    def look(self) -> None:
        """Log the points since the last call; steps that are repeated after a restart are logged again."""
        try:
            points = list(Curve(self._run.store.shared(CURVE_FILE).parent).read())
            progress = self._run.read_progress()
        except (OSError, StorageError, ValueError) as error:
            logger.warning("the training curve cannot be read now: %s", error)
            return
        same = next((n for n, pair in enumerate(zip(points, self._logged, strict=False)) if pair[0] != pair[1]), None)
        known = min(len(points), len(self._logged)) if same is None else same
        if known < len(self._logged):
            logger.info("training goes on from step %d", points[known - 1].step if known else 0)
        total = (
            None if progress is None or progress.stage != Stage.TRAIN or progress.step == 0 else progress.total_steps
        )
        for point in points[known:]:
            log_point(point, total)
        self._logged = points


class EveryFew:
    """Lets one line through every few seconds, and the last one."""

    def __init__(self, every_s: float = _PROGRESS_EVERY_S) -> None:
        self._every_s, self._at = every_s, 0.0

    def info(self, message: str, *values: object, is_last: bool = False) -> None:
        """Log a line, or skip it."""
        now = time.monotonic()
        if is_last or now - self._at >= self._every_s:
            self._at = now
            logger.info(message, *values)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Log how long a part of a stage took."""
    started = time.monotonic()
    logger.info("%s begins", what)
    yield
    logger.info("%s took %s", what, duration(time.monotonic() - started))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings by dotted names, without those that are not set."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value
