"""Connecting to Ray, and limits on a process's use of its machine: its GPU, threads and memory."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import logging
import os
from typing import Any

import ray
from ray._private import ray_constants

from eda_service.config.job import DeviceName
from eda_service.errors import InputError
from eda_service.raycluster.node import (
    NUM_LOGICAL_CPUS,
    OBJECT_STORE_BYTES,
    loopback_only,
    no_metrics,
    worker_niceness,
)
from eda_service.raycluster.node_directory import NodeDirectory


def connect() -> None:
    """Join the cluster this process belongs to (a Ray job's `RAY_ADDRESS`), or start a private local one.

    A private one takes a few logical CPUs whatever the machine has, listens on loopback, keeps its files from other
    users and stops with this process.
    """
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "configure_logging": False}
    if "RAY_ADDRESS" in os.environ:
        ray.init(**options)
    else:
        _start_private(options)


def _start_private(options: dict[str, Any]) -> None:
    os.environ.update({**worker_niceness(), **no_metrics(), **loopback_only(True)})
    ray_constants.ENABLE_RAY_CLUSTER = False  # the environment's value; this process read it at its import
    directory = NodeDirectory()
    atexit.register(_end_private, directory)
    ray.init(
        address="local",
        num_cpus=NUM_LOGICAL_CPUS,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        _temp_dir=str(directory.ray),
        **options,
    )


def _end_private(directory: NodeDirectory) -> None:
    ray.shutdown()
    directory.remove()


def require_gpus(wanted: int) -> str | None:
    """Check that Ray has the GPUs that a job's processes request, before the first of them waits for one.

    Returns:
        None, or the reason that the job will wait: a machine with GPUs may join the cluster, or the cluster may add
        one.

    Raises:
        InputError: Ray has no GPU and is this process's own, so that none can join.
    """
    found = int(ray.cluster_resources().get("GPU", 0))
    if found >= wanted:
        return None
    if "RAY_ADDRESS" in os.environ:
        return (
            f"waiting for a machine with GPUs: each process asks for {wanted}, the cluster has {found} (`ray status`)"
        )
    raise InputError(
        f"train.use_gpu asks for {wanted} GPU for each process and Ray finds {found} on this machine; go where "
        "`eda doctor` lists one, or set train.use_gpu to false",
        param="train.use_gpu",
    )


def reserved_device() -> DeviceName:
    """Return `cuda` for a process that Ray reserved a GPU for, else `auto`.

    If such a process computed on the CPU it would be slow and would block the GPU for others, without any sign.
    """
    return "cuda" if ray.is_initialized() and ray.get_gpu_ids() else "auto"


def limit_threads(threads: int) -> None:
    """Cap the CPU threads of this worker process."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def release_free_memory() -> None:
    """Return freed memory of this process to the system; if the C library is not glibc, do nothing.

    Reading weights frees as much memory as it keeps, in pieces that glibc would not return.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def limit_kernel_cache() -> None:
    """Limit the caches of oneDNN for the shapes it has multiplied; call it before this process first multiplies.

    There are two caches, each of 1,024 entries by default: oneDNN's kernels, and per thread torch's descriptions of
    them, which are as large (256 kB and more each). Batches of all sizes fill both with hundreds of megabytes, which
    saves no time that we could measure (ADR 0022).
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "128")
