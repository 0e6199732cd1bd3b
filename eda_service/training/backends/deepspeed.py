"""The DeepSpeed dict, derived from TrainConfig in this one place."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

from eda_service.config.job import TrainConfig
from eda_service.training.accumulate import num_parts

_PARTITIONED = 3


def prepare_environment(use_gpu: bool) -> None:
    """Settings that must stand before `import deepspeed`: no accelerator probing and no C++ build on a CPU machine."""
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"


def without_cpu_kernels() -> None:
    """Tell DeepSpeed that its shared-memory collectives are not there: building them takes 80 s and a compiler."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def deepspeed_config(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """Engine settings for one worker group; the learning rate is set per step by the loop."""
    per_worker, parts = -(-config.batch_size // world_size), num_parts(config, world_size)
    return {
        "train_micro_batch_size_per_gpu": -(-per_worker // parts),
        "gradient_accumulation_steps": parts,
        "gradient_clipping": config.grad_clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.use_gpu and config.precision != "float32"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def whole_parameters(module: Any, config: TrainConfig) -> AbstractContextManager[None]:
    """Inside, every worker sees all of a module's weights, which ZeRO-3 keeps in parts; all workers enter together."""
    import deepspeed

    context: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
        list(module.parameters()), enabled=config.zero_stage == _PARTITIONED
    )
    return context
