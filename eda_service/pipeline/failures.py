"""Conversion of the exceptions of a stage into errors of our tree."""

from __future__ import annotations

from collections.abc import Iterator

from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from eda_service.errors import EdaError, InsufficientStorageError, OutOfMemoryError, WorkerLostError
from eda_service.storage.files import is_disk_full


def own_error(error: BaseException) -> EdaError:
    """Return our error for an exception of a stage: itself, the cause inside a Ray error, or a coded wrapper."""
    if isinstance(error, TrainingFailedError):
        return _training_error(error)
    cause = error.cause if isinstance(error, RayTaskError) else error
    for own in (cause, error):
        if isinstance(own, EdaError):
            return own
    text = (str(error).strip().splitlines() or [type(error).__name__])[-1][:400]
    if isinstance(error, RayOutOfMemoryError | MemoryError) or isinstance(cause, MemoryError):
        return OutOfMemoryError(f"a worker ran out of memory: {text}; lower selfgen.batch_size or train.batch_size")
    if is_disk_full(error):
        return InsufficientStorageError(
            "the disk of the run directory became full; free space there and retry the job: it goes on from its last "
            "complete record"
        )
    if isinstance(error, RayActorError | WorkerCrashedError):
        return WorkerLostError(f"a worker died: {text}")
    return EdaError(f"{type(error).__name__}: {text}")


def _training_error(error: TrainingFailedError) -> EdaError:
    """Return the first error of our tree behind a worker group's failure, else a lost worker."""
    from torch import OutOfMemoryError as DeviceOutOfMemoryError

    failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
    if any(map(is_disk_full, [error, *failures])):
        return InsufficientStorageError(
            "the disk of the run directory became full in training; free space there and retry the job"
        )
    for cause in (each for failure in failures for each in _causes(failure)):
        if isinstance(cause, EdaError):
            return cause
        if isinstance(cause, RayOutOfMemoryError | MemoryError | DeviceOutOfMemoryError):
            return OutOfMemoryError(
                "a train worker ran out of memory; lower train.batch_size, train.max_tokens or "
                "train.draft_vocab_size, or stop what else runs on the machine"
            )
    return WorkerLostError(f"training did not finish: {str(error).strip().splitlines()[-1][:400]}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, each followed by the error that Ray wraps in it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        inner = getattr(cause, "cause", None)
        if isinstance(inner, BaseException):
            yield inner
        cause = cause.__cause__
