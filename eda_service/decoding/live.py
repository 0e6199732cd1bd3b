"""The state of one request while it is decoded, and the batch of such states that a round works on.

Shapes: B live rows, L positions, P pending positions, C width of a feature, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.decoding.proposal import Pending
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.decoding.sampling import Truncation
from eda_service.decoding.shaping import History
from eda_service.decoding.variants import Variant
from eda_service.targets.states import TargetStates


@dataclass
class RunningEstimate:
    """An estimate of a probability or an expected count: the mean of the first outcomes, later a running mean."""

    value: float
    weight: float = 2.0

    def learn(self, outcome: float, memory: float) -> None:
        """Update the estimate with one outcome."""
        self.weight += 1.0
        self.value += max(memory, 1.0 / self.weight) * (outcome - self.value)


@dataclass
class LiveRequest:
    """One row of the batch.

    Attributes:
        variant: The version of the variant that the request started with, and on which it ends.
        num_cached: Tokens whose keys the target's cache holds.
        last_token: The newest token, known but not yet forwarded.
        pending_tokens: x_{t+1} of the positions the draft has not seen.
        pending_features: h_t of the same positions in blocks (.., C); the first position is `pending_start`.
        captured: The target's states in blocks, in order of position, if capture is on.
        acceptance: Running estimate of the probability that the target accepts a drafted token; None before the first.
        decoding_draft: The draft of the request; None decodes autoregressively.
        history: The tokens and parameters that shape the request's logits.
        arrived_s: Time of submission, by `time.perf_counter`, in seconds.
    """

    request_id: str
    prompt_ids: list[int]
    params: SamplingParams
    stop_ids: frozenset[int]
    generator: torch.Generator
    stats: RequestStats
    variant: Variant
    num_cached: int = 0
    last_token: int = -1
    pending_tokens: list[int] = field(default_factory=list)
    pending_features: list[Tensor] = field(default_factory=list)
    pending_start: int = 0
    captured: list[TargetStates] = field(default_factory=list)
    acceptance: RunningEstimate | None = None
    decoding_draft: DecodingDraft | None = None
    history: History = field(init=False)
    arrived_s: float = field(default_factory=time.perf_counter)
    _uniforms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history = History(self.params, self.prompt_ids, self.stop_ids)

    @property
    def num_left(self) -> int:
        """Number of tokens this request may still emit."""
        return self.params.max_new_tokens - self.stats.num_new_tokens

    def peek(self, count: int) -> list[float]:
        """Return the next draws of this request's own stream without using them up (`consume` does)."""
        missing = count - len(self._uniforms)
        if missing > 0:
            self._uniforms += torch.rand(missing, generator=self.generator).tolist()
        return self._uniforms[:count]

    def consume(self, count: int) -> None:
        """Use up draws that were returned by `peek`."""
        del self._uniforms[:count]

    def hold_back(self, tokens: list[int], features_PC: Tensor, *, keep: bool) -> None:
        """Add tokens, and the features before them, that the draft has not seen.

        Args:
            tokens: x_{t+1} of each new position.
            features_PC: h_t of each new position.
            keep: Whether to add to what is pending (the draft did not run) or to replace it.
        """
        if not keep:
            self.pending_start += len(self.pending_tokens)
            self.pending_tokens, self.pending_features = [], []
        self.pending_tokens += tokens
        self.pending_features.append(features_PC)

    def forget_features(self, width: int) -> None:
        """Replace features by zeros of another width, for a draft that came later: it is shown them but never drafts
        from them.
        """
        self.pending_features = [block.new_zeros(len(block), width) for block in self.pending_features]

    def take_all_but_last(self) -> tuple[list[int], Tensor, int]:
        """Return the pending tokens, features (P, C) and start of all pairs but the last, which stays pending."""
        features_PC = torch.cat(self.pending_features)
        taken, start = self.pending_tokens[:-1], self.pending_start
        self.pending_tokens, self.pending_features = self.pending_tokens[-1:], [features_PC[-1:]]
        self.pending_start += len(taken)
        return taken, features_PC[:-1], start

    def accept(self, token_ids: list[int]) -> tuple[list[int], str | None]:
        """Emit tokens up to a stop token or the cap; return the emitted tokens and the reason if the request ended."""
        emitted: list[int] = []
        reason: str | None = None
        for token in token_ids[: self.num_left]:
            emitted.append(token)
            if token in self.stop_ids:
                reason = "stop"
                break
        self.stats.num_new_tokens += len(emitted)
        self.history.add(emitted)
        if reason is None and self.num_left == 0:
            reason = "length"
        self.last_token = emitted[-1]
        return emitted, reason


def pending_of(live: Sequence[LiveRequest]) -> Pending:
    """Collect the pairs that the draft has not seen of each request, padded on the right."""
    blocks = [torch.cat(request.pending_features) for request in live]
    width = max(len(request.pending_tokens) for request in live)
    features_BPC = blocks[0].new_zeros(len(live), width, blocks[0].shape[1])
    for i, block in enumerate(blocks):
        features_BPC[i, : len(block)] = block
    padded = [request.pending_tokens + [0] * (width - len(request.pending_tokens)) for request in live]
    return Pending(
        torch.tensor(padded, device=features_BPC.device),
        features_BPC,
        [request.pending_start for request in live],
        [len(request.pending_tokens) for request in live],
        decoding_drafts_of(live),
    )


def decoding_drafts_of(live: Sequence[LiveRequest]) -> list[DecodingDraft] | None:
    """Return the draft of each request; a request without one gets another's, unused. None: no request has a draft."""
    known = [request.decoding_draft for request in live if request.decoding_draft is not None]
    return [request.decoding_draft or known[0] for request in live] if known else None


def adapters_of(live: Sequence[LiveRequest]) -> list[str | None]:
    """Return the key of each request's adapter."""
    return [request.variant.adapter for request in live]


def histories_of(live: Sequence[LiveRequest]) -> list[History]:
    """Return the history that shapes each request's logits."""
    return [request.history for request in live]


def truncation_of(requests: Sequence[LiveRequest], device: torch.device) -> Truncation | None:
    """Return which tokens the requests' distributions keep; None if all keep all."""
    params = [request.params for request in requests]
    return Truncation.of(
        [each.top_p for each in params],
        {i: (each.top_k, each.min_p) for i, each in enumerate(params) if each.truncates},
        device,
    )
