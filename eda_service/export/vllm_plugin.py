"""Entry point `vllm.general_plugins`: teaches vLLM the gated draft's architecture.

vLLM calls `register` in each of its processes; nothing heavy is imported until a model of that architecture is loaded.
Inside this project's service those processes also learn to end with the one that started them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

ARCHITECTURE = "EagleEdaForCausalLM"
DIE_WITH_PARENT = "EDA_VLLM_DIES_WITH_PARENT"
_MODEL = "eda_service.export.vllm_model:EagleEdaForCausalLM"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def register() -> None:
    """Register the architecture; calling it again changes nothing."""
    from vllm import ModelRegistry

    if os.environ.get(DIE_WITH_PARENT) not in {None, str(os.getpid())}:
        _die_with_parent()
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, _MODEL)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone: a killed replica can tell nobody to stop."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
