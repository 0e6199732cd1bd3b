"""What a job says when Ray Train's worker group fails."""

from __future__ import annotations

import errno

import pytest
import torch
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from eda_service.errors import EdaError, InsufficientStorageError, NonFiniteLossError, OutOfMemoryError, WorkerLostError
from eda_service.pipeline.failures import own_error


def _caused_by(cause: BaseException) -> Exception:
    error = RuntimeError("a worker raised")
    error.__cause__ = cause
    return error


def _holding(cause: BaseException) -> Exception:
    error = RuntimeError("Ray's wrapper")
    error.cause = cause  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (NonFiniteLossError("step 3"), NonFiniteLossError),
        (_caused_by(NonFiniteLossError("step 3")), NonFiniteLossError),
        (_caused_by(_holding(NonFiniteLossError("step 3"))), NonFiniteLossError),
        (_holding(MemoryError()), OutOfMemoryError),
        (_caused_by(torch.OutOfMemoryError("2 GiB")), OutOfMemoryError),
        (OSError(errno.ENOSPC, "full"), InsufficientStorageError),
        (RuntimeError("a worker left"), WorkerLostError),
    ],
)
def test_a_failed_worker_is_told_by_what_it_raised(failure: Exception, expected: type[EdaError]) -> None:
    assert type(own_error(WorkerGroupError("rank 0 failed", {0: failure}))) is expected


def test_a_failure_of_ray_train_itself_is_a_lost_worker() -> None:
    told = own_error(TrainingFailedError("first line\nthe last line"))
    assert isinstance(told, WorkerLostError)
    assert told.message == "training did not finish: the last line"
