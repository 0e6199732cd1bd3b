"""The training backends, by their names in the config."""

from __future__ import annotations

from torch import Tensor

from eda_service.config.job import TrainBackend, TrainConfig
from eda_service.drafts.draft import Draft
from eda_service.training.backend import Backend


def open_backend(draft: Draft, vocab_W: Tensor | None, config: TrainConfig) -> Backend:
    """Open the backend that `train.backend` names, with a draft in training form; DeepSpeed's needs torch's process
    group.
    """
    if config.backend is TrainBackend.TORCH:
        from eda_service.training.backends.torch import TorchBackend

        return TorchBackend(draft, vocab_W, config)
    from eda_service.training.backends.deepspeed import DeepSpeedBackend

    return DeepSpeedBackend(draft, vocab_W, config)
