"""The state of one request while it is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from eda_service.decoding.request import RequestStats, SamplingParams


@dataclass
class LiveRequest:
    """One row of the batch.

    Attributes:
        num_cached: Tokens whose keys the target's cache holds.
        last_token: The newest token, known but not yet forwarded.
        pending_tokens: x_{t+1} of the positions the draft has not seen.
        pending_features_PD: h_t of the same positions; the first is position `pending_start`.
        captured: Feature blocks in order of position, when capture is on.
    """

    request_id: str
    prompt_ids: list[int]
    params: SamplingParams
    stop_ids: frozenset[int]
    generator: torch.Generator
    stats: RequestStats
    num_cached: int = 0
    last_token: int = -1
    pending_tokens: list[int] = field(default_factory=list)
    pending_features_PD: Tensor | None = None
    pending_start: int = 0
    captured: list[Tensor] = field(default_factory=list)

    @property
    def num_left(self) -> int:
        """Tokens this request may still emit."""
        return self.params.max_new_tokens - self.stats.num_new_tokens

    def uniforms(self, count: int) -> Tensor:
        """The next draws of this request's own stream."""
        return torch.rand(count, generator=self.generator)

    def accept(self, token_ids: list[int]) -> tuple[list[int], str | None]:
        """Emit tokens up to a stop token or the cap; returns what was emitted and why it ended, if it did."""
        emitted: list[int] = []
        reason: str | None = None
        for token in token_ids[: self.num_left]:
            emitted.append(token)
            if token in self.stop_ids:
                reason = "stop"
                break
        self.stats.num_new_tokens += len(emitted)
        if reason is None and self.num_left == 0:
            reason = "length"
        self.last_token = emitted[-1]
        return emitted, reason
