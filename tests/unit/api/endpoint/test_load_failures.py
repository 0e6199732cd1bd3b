"""Which failures of a load may pass by themselves: the table, row by row, with real errors of the libraries."""

from __future__ import annotations

import errno
import pickle

import httpx
import pytest
import ray.exceptions
import torch
from safetensors import SafetensorError

from api.endpoint.load_failures import Cause, cause_of, code_of, reason_of
from eda_service.errors import (
    ArtifactCorruptError,
    EdaError,
    InputError,
    NotFoundError,
    OutOfMemoryError,
    StorageError,
    TargetIncompatibleError,
    TargetNotFoundError,
    UnsafeCheckpointError,
    WorkerLostError,
)


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


OF_THE_MODEL = [
    TargetIncompatibleError("falcon is not supported"),
    TargetNotFoundError("no such directory"),
    NotFoundError("no pack p@3"),
    ArtifactCorruptError("sha256"),
    UnsafeCheckpointError("pickle"),
    EdaError("of no kind"),
    ValueError("rope type 'odd' is not known"),
    KeyError("weight"),
    FileNotFoundError(errno.ENOENT, "No such file", "config.json"),
    PermissionError(errno.EACCES, "Permission denied", "model.safetensors"),
    SafetensorError("Error while deserializing header"),
    RuntimeError("size mismatch for lm_head.weight"),
    raised_from(TargetIncompatibleError("cannot be read"), KeyError("quant_method")),
    pickle.UnpicklingError("invalid load key"),
]
OF_THE_ENVIRONMENT = [
    OutOfMemoryError("host memory"),
    StorageError("does not answer"),
    WorkerLostError("died"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: device-side assert triggered"),
    InputError("device is cuda and this process sees 0 of the 1 GPU it needs"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
    TimeoutError("timed out"),
    httpx.ConnectError("nobody there"),
    ray.exceptions.NodeDiedError("the node died"),
    raised_from(TargetNotFoundError("the hub does not answer"), httpx.ReadTimeout("late")),
    raised_from(EdaError("vLLM does not start"), ValueError("Free memory on device (1/80 GiB) on startup is less than "
                "desired GPU memory utilization")),
]  # fmt: skip


@pytest.mark.parametrize("error", OF_THE_MODEL, ids=lambda error: f"{type(error).__name__}-{error}"[:40])
def test_what_the_model_is_stays(error: Exception) -> None:
    assert cause_of(error) is Cause.MODEL


@pytest.mark.parametrize("error", OF_THE_ENVIRONMENT, ids=lambda error: f"{type(error).__name__}-{error}"[:40])
def test_what_the_machine_lacks_may_come(error: Exception) -> None:
    assert cause_of(error) is Cause.ENVIRONMENT


def test_the_reason_of_ours_is_as_it_is_and_of_a_library_says_what_to_look_at() -> None:
    ours = TargetIncompatibleError("hidden_size is 32, the draft's 64; adapt again")
    assert (reason_of(ours), code_of(ours)) == (ours.message, "target_incompatible")
    theirs = ValueError("rope type\n   'odd'")
    assert "ValueError: rope type 'odd'; look at config.json" in reason_of(theirs)
    assert code_of(theirs) == "load_failed"
    assert reason_of(MemoryError()) == "the machine could not load it: MemoryError: without a message"
    assert len(reason_of(ValueError("x" * 10_000))) < 1000
