"""The DeepSpeed dict, derived from TrainConfig in this one place."""

from __future__ import annotations

import os
from typing import Any

from eda_service.config import TrainConfig


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
    per_worker = -(-config.batch_size // world_size)
    return {
        "train_micro_batch_size_per_gpu": per_worker,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.grad_clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.use_gpu},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
