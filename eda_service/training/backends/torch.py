"""Plain torch in one process: AdamW, gradients clipped by their norm.

Weights are float32 with float32 optimizer state; if the config asks for bfloat16, products are cast.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eda_service.config.job import TrainConfig
from eda_service.drafts.draft import Draft
from eda_service.training.accumulate import whole_counts
from eda_service.training.backend import Step, StepLosses, require_finite
from eda_service.training.inputs import SharedEnds, is_bfloat16
from eda_service.training.loss import DraftLoss

_FILE = "state.pt"


class TorchBackend:
    """The draft and its optimizer (`training.backend.Backend`).

    Args:
        draft: Draft in training form.
        vocab_W: Draft vocabulary; None: the target's.
        config: Settings of training.
    """

    def __init__(self, draft: Draft, vocab_W: Tensor | None, config: TrainConfig) -> None:
        self.rank, self.world_size = 0, 1
        self.device = torch.device("cuda" if config.use_gpu else "cpu")
        self.mixed, self.draft, self._config = is_bfloat16(config), draft, config
        self._draft_loss = DraftLoss(draft, config.loss, vocab_W, mixed=self.mixed).to(self.device)
        self._trained = {name: p for name, p in self.draft.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(self._trained.values(), lr=0.0, weight_decay=config.weight_decay)

    def step(self, step: Step, ends: SharedEnds) -> StepLosses:
        """See `Backend.step`."""
        counts_S = whole_counts(step.parts, self._draft_loss.num_steps)
        divisors_S = None if counts_S is None else counts_S.tolist()
        total = torch.zeros((), device=self.device)
        self._optimizer.zero_grad()
        for part in step.parts:
            if part.counts:
                losses = self._draft_loss(part.batch, ends.embed, ends.lm_head, divisors_S, step.is_repair)
                total += losses.total.detach()
                losses.total.backward()
        mean = require_finite(self.mean(total), step)
        torch.nn.utils.clip_grad_norm_(self._trained.values(), self._config.grad_clip)
        for group in self._optimizer.param_groups:
            group["lr"] = step.rate
        self._optimizer.step()
        return StepLosses(mean, losses.regression, losses.cross_entropy)

    def save(self, directory: Path, state: Mapping[str, Any]) -> None:
        """See `Backend.save`."""
        trained = {name: p.detach() for name, p in self._trained.items()}
        torch.save(
            {"trained": trained, "optimizer": self._optimizer.state_dict(), "state": dict(state)}, directory / _FILE
        )

    @torch.no_grad()
    def load(self, directory: Path) -> Mapping[str, Any]:
        """See `Backend.load`."""
        found = torch.load(directory / _FILE, map_location=self.device, weights_only=True)
        for name, p in self._trained.items():
            p.copy_(found["trained"][name])
        self._optimizer.load_state_dict(found["optimizer"])
        state: Mapping[str, Any] = found["state"]
        return state

    def whole_weights(self) -> AbstractContextManager[None]:
        """See `Backend.whole_weights`; one process always has all weights."""
        return nullcontext()

    def mean(self, value: Tensor) -> float:
        """See `Backend.mean`."""
        mean: float = value.item()
        return mean
