"""DeepSpeed: ZeRO stages 0 to 3 in a group of workers. The process group must exist before the backend is made.

The engine's dict is derived from TrainConfig here and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eda_service.config.job import TrainConfig
from eda_service.drafts.draft import Draft
from eda_service.training.accumulate import num_parts, whole_counts
from eda_service.training.backend import Step, StepLosses, require_finite
from eda_service.training.inputs import SharedEnds, is_bfloat16
from eda_service.training.loss import DraftLoss, Losses

_PARTITIONED, _TAG = 3, "state"


class DeepSpeedBackend:
    """One worker's engine (`training.backend.Backend`).

    Args:
        draft: Draft in training form.
        vocab_W: Draft vocabulary; None: the target's.
        config: Settings of training.
    """

    def __init__(self, draft: Draft, vocab_W: Tensor | None, config: TrainConfig) -> None:
        _prepare_environment(config.use_gpu)
        import deepspeed

        self.rank, self.world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._config = config
        # On a GPU the engine's own bf16 mode does it: weights are bfloat16 beside float32 ones.
        self.mixed = is_bfloat16(config) and not config.use_gpu
        draft_loss = DraftLoss(draft, config.loss, vocab_W, mixed=self.mixed)
        self._num_steps = draft_loss.num_steps
        parameters = [p for p in draft_loss.parameters() if p.requires_grad]
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=draft_loss,
            optimizer=torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.weight_decay),
            model_parameters=parameters,
            config=deepspeed_config(config, self.world_size),
            dist_init_required=False,
        )
        self.draft: Draft = self._engine.module.draft
        self.device: torch.device = self._engine.device

    def step(self, step: Step, ends: SharedEnds) -> StepLosses:
        """See `Backend.step`."""
        for group in self._optimizer.param_groups:
            group["lr"] = step.rate
        # DeepSpeed expects this many forwards of each worker, and divides their gradients by that number.
        num = len(step.parts)
        counts_S = whole_counts(step.parts, self._num_steps)
        divisors_S = None if counts_S is None else (counts_S / num).tolist()
        total = torch.zeros((), device=self.device)
        for part in step.parts:
            losses: Losses = self._engine(part.batch, ends.embed, ends.lm_head, divisors_S, step.is_repair)
            loss = losses.total if part.counts else 0.0 * losses.total
            total += loss.detach() / num
            if part is step.parts[-1]:
                mean = require_finite(self.mean(total), step)
            self._engine.backward(loss)
            self._engine.step()
        return StepLosses(mean, losses.regression, losses.cross_entropy)

    def save(self, directory: Path, state: Mapping[str, Any]) -> None:
        """See `Backend.save`."""
        self._engine.save_checkpoint(str(directory), tag=_TAG, client_state=dict(state), exclude_frozen_parameters=True)

    def load(self, directory: Path) -> Mapping[str, Any]:
        """See `Backend.load`."""
        _, state = self._engine.load_checkpoint(str(directory), tag=_TAG, load_module_strict=False)
        found: Mapping[str, Any] = state
        return found

    def whole_weights(self) -> AbstractContextManager[None]:
        """See `Backend.whole_weights`; ZeRO-3 keeps the weights in parts, so all workers enter the block together."""
        import deepspeed

        context: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
            list(self.draft.parameters()), enabled=self._config.zero_stage == _PARTITIONED
        )
        return context

    def mean(self, value: Tensor) -> float:
        """See `Backend.mean`."""
        total = value.clone()
        if self.world_size > 1:
            torch.distributed.all_reduce(total)
        mean: float = total.item() / self.world_size
        return mean


def deepspeed_config(config: TrainConfig, world_size: int) -> dict[str, Any]:
    """Make the engine settings for one worker group; the learning rate is set per step."""
    per_worker, parts = -(-config.batch_size // world_size), num_parts(config, world_size)
    return {
        "train_micro_batch_size_per_gpu": -(-per_worker // parts),
        "gradient_accumulation_steps": parts,
        "gradient_clipping": config.grad_clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.use_gpu and is_bfloat16(config)},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _prepare_environment(use_gpu: bool) -> None:
    """Prevent accelerator probing and C++ builds on a CPU machine. The probing happens when DeepSpeed is imported, and
    the build of its shared-memory collectives takes 80 s and a compiler.
    """
    if not use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
