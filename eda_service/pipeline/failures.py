"""Errors of our tree for whatever a stage raises."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError

from eda_service.errors import EdaError, InsufficientStorageError, OutOfMemoryError, WorkerLostError
from eda_service.storage.files import is_disk_full


def own_error(error: BaseException) -> EdaError:
    """Our error for whatever a stage raised: itself, the cause inside a Ray error, or a coded wrapper."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, EdaError):
        return cause
    if isinstance(error, EdaError):
        return error
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
