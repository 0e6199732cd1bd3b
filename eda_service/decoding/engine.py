"""The round loop: one proposal and one batched verify per round over all live requests.

Requests join and leave between rounds. Live rows keep slots 0..B-1; when one leaves, the last row takes its slot.
Without a draft the same loop decodes autoregressively (K = 0): that is the speedup baseline and the self-generator. Not
thread-safe: one thread owns an engine.

Shapes: B live rows, K draft tokens, P prompt length, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from eda_service.decoding.live import LiveRequest, nuclei, pending_pairs
from eda_service.decoding.proposal import Proposal, Proposer
from eda_service.decoding.request import RequestStats, SamplingParams, StepOutput
from eda_service.decoding.sampling import distribution, draw, is_finite
from eda_service.decoding.verification import verify_greedy, verify_sampled
from eda_service.errors import RequestError
from eda_service.model.draft import Draft
from eda_service.model.head import DraftHead
from eda_service.target.loader import Target

_PREFILL_TOKENS = 2048


class Engine:
    """Continuous batching over one target and at most one draft.

    Args:
        target: Frozen target.
        draft: Draft with inference weights, or None for autoregressive decoding.
        draft_head: The rows of the target's head the draft scores; needed with a draft.
        num_draft_tokens: K, chain length; ignored without a draft.
        max_batch: Live requests at once; more wait in order of arrival.
        max_tokens: Prompt plus answer of any request; capped by the target's context.
        capture_features: Hand out the target's features when a request ends.
        seed: Of the streams of requests that bring none.
    """

    def __init__(
        self,
        target: Target,
        draft: Draft | None = None,
        draft_head: DraftHead | None = None,
        *,
        num_draft_tokens: int = 5,
        max_batch: int = 32,
        max_tokens: int = 2048,
        capture_features: bool = False,
        seed: int = 0,
    ) -> None:
        self.target = target
        self.max_batch = max_batch
        self.num_draft_tokens = num_draft_tokens if draft is not None else 0
        self.max_tokens = min(max_tokens, target.max_context) - self.num_draft_tokens - 1
        self.capture_features = capture_features
        self._seed = seed
        self._num_seen = 0
        capacity = self.max_tokens + self.num_draft_tokens + 1
        self._cache = target.new_cache(max_batch, capacity)
        self._proposer: Proposer | None = None
        if draft is not None and draft_head is not None:
            self._proposer = Proposer(draft, target.embed, draft_head, num_slots=max_batch, max_tokens=capacity)
        self._waiting: deque[LiveRequest] = deque()
        self._live: list[LiveRequest] = []
        self._cancelled: list[StepOutput] = []

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._live or self._cancelled)

    @property
    def num_waiting(self) -> int:
        """Requests not yet prefilled."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests in the batch."""
        return len(self._live)

    def submit(self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Queue a request; it joins the batch at the next round with a free slot.

        Raises:
            RequestError: Empty prompt, token out of vocabulary, or more tokens than the context holds.
        """
        vocab_size = self.target.config.vocab_size
        if not prompt_ids:
            raise RequestError("the prompt is empty; send at least one token", param="prompt")
        if min(prompt_ids) < 0 or max(prompt_ids) >= vocab_size:
            raise RequestError(f"a prompt token lies outside 0..{vocab_size - 1}", param="prompt")
        if len(prompt_ids) + params.max_new_tokens > self.max_tokens:
            raise RequestError(
                f"{len(prompt_ids)} prompt tokens and max_tokens {params.max_new_tokens} exceed the context of "
                f"{self.max_tokens}; shorten the prompt or lower max_tokens",
                param="max_tokens",
            )
        seed = params.seed if params.seed is not None else self._seed * 1_000_003 + self._num_seen
        self._num_seen += 1
        self._waiting.append(
            LiveRequest(
                request_id=request_id,
                prompt_ids=list(prompt_ids),
                params=params,
                stop_ids=self.target.stop_token_ids | params.stop_token_ids,
                generator=torch.Generator().manual_seed(seed),
                stats=RequestStats(num_prompt_tokens=len(prompt_ids)),
            )
        )

    @torch.inference_mode()
    def cancel(self, request_id: str) -> None:
        """Drop a request; its slot is free at the next round. Unknown ids are ignored (it may have just ended)."""
        for request in list(self._waiting):
            if request.request_id == request_id:
                self._waiting.remove(request)
                self._cancelled.append(StepOutput(request_id, [], "cancelled", request.stats))
        for slot, request in enumerate(self._live):
            if request.request_id == request_id:
                self._leave(slot)
                self._cancelled.append(StepOutput(request_id, [], "cancelled", request.stats))
                return

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Admit what fits, then one round for all live requests."""
        outputs, self._cancelled = self._cancelled, []
        while self._waiting and len(self._live) < self.max_batch:
            outputs.extend(self._admit(self._next_group()))
        if self._live:
            outputs.extend(self._round())
        return outputs

    def _next_group(self) -> list[LiveRequest]:
        """Waiting requests that fit the free slots and one padded prefill, in order of arrival."""
        group = [self._waiting.popleft()]
        width = len(group[0].prompt_ids)
        while self._waiting and len(self._live) + len(group) < self.max_batch:
            width = max(width, len(self._waiting[0].prompt_ids))
            if width * (len(group) + 1) > _PREFILL_TOKENS:
                break
            group.append(self._waiting.popleft())
        return group

    def _admit(self, group: list[LiveRequest]) -> list[StepOutput]:
        """Prefill a group into the next slots and sample each first token from its prompt's last position."""
        slot = len(self._live)
        width = max(len(request.prompt_ids) for request in group)
        padded = [request.prompt_ids + [0] * (width - len(request.prompt_ids)) for request in group]
        ids_BP = torch.tensor(padded, device=self.target.device)
        features_BPD = self.target.forward(ids_BP, self._cache, [0] * len(group), first_slot=slot)
        rows_B = torch.arange(len(group), device=self.target.device)
        last_B = torch.tensor([len(request.prompt_ids) - 1 for request in group], device=self.target.device)
        logits_B1V = self.target.head(features_BPD[rows_B, last_B][:, None])
        first_B = self._first_tokens(group, logits_B1V)
        finite_B = is_finite(logits_B1V)
        if self._proposer is not None and width > 1:
            self._proposer.extend(ids_BP[:, 1:], features_BPD[:, :-1], [0] * len(group), first_slot=slot)
        self._live.extend(group)
        outputs = [
            self._start(request, features_BPD[i], first, bool(finite))
            for i, (request, first, finite) in enumerate(zip(group, first_B.tolist(), finite_B.tolist(), strict=True))
        ]
        self._leave_ended(outputs, first_slot=slot)
        return outputs

    def _first_tokens(self, group: list[LiveRequest], logits_B1V: Tensor) -> Tensor:
        """The first token of each answer (B,)."""
        if all(request.params.temperature == 0 for request in group):
            return logits_B1V.argmax(-1).squeeze(1)
        device = self.target.device
        temperatures_B = torch.tensor([request.params.temperature for request in group], device=device)
        probs_BV = distribution(logits_B1V, temperatures_B, nuclei(group, device)).squeeze(1)
        return draw(probs_BV, torch.cat([request.uniforms(1) for request in group]).to(device))

    def _start(self, request: LiveRequest, features_PD: Tensor, first: int, finite: bool) -> StepOutput:
        """Take one request's prefill result; `features_PD` is padded."""
        if not finite:
            return StepOutput(request.request_id, [], "error", request.stats, "the target gave non-finite logits")
        length = len(request.prompt_ids)
        request.num_cached = length
        request.pending_tokens, request.pending_start = [first], length - 1
        request.pending_features_PD = features_PD[length - 1 : length]
        if self.capture_features:
            request.captured.append(features_PD[:length].clone())
        emitted, reason = request.accept([first])
        return self._output(request, emitted, reason)

    def _round(self) -> list[StepOutput]:
        """Propose, verify, emit."""
        live = self._live
        sampled = any(request.params.temperature > 0 for request in live)
        count = self.num_draft_tokens
        device = self.target.device
        uniforms_BU = torch.stack([request.uniforms(2 * count + 1) for request in live]).to(device) if sampled else None
        temperatures_B = (
            torch.tensor([request.params.temperature for request in live], device=device) if sampled else None
        )
        proposal = self._propose(temperatures_B, uniforms_BU)
        last_B1 = torch.tensor([[request.last_token] for request in live], device=self.target.device)
        ids_BK1 = last_B1 if proposal is None else torch.cat([last_B1, proposal.token_ids_BK], dim=1)
        features_BKD = self.target.forward(ids_BK1, self._cache, [request.num_cached for request in live])
        logits_BKV = self.target.head(features_BKD)
        finite_B = is_finite(logits_BKV)
        accepted_B, next_B = self._verify(logits_BKV, proposal, temperatures_B, uniforms_BU)
        table = torch.cat([ids_BK1, accepted_B[:, None], next_B[:, None], finite_B[:, None]], dim=1).tolist()
        outputs = [
            self._advance(request, row, features_BKD[i])
            for i, (request, row) in enumerate(zip(live, table, strict=True))
        ]
        self._leave_ended(outputs, first_slot=0)
        return outputs

    def _propose(self, temperatures_B: Tensor | None, uniforms_BU: Tensor | None) -> Proposal | None:
        if self._proposer is None:
            return None
        live = self._live
        tokens_BP, features_BPD = pending_pairs(live)
        return self._proposer.propose(
            tokens_BP,
            features_BPD,
            [request.pending_start for request in live],
            [len(request.pending_tokens) for request in live],
            self.num_draft_tokens,
            temperatures_B,
            None if uniforms_BU is None else uniforms_BU[:, : self.num_draft_tokens],
        )

    def _verify(
        self, logits_BKV: Tensor, proposal: Proposal | None, temperatures_B: Tensor | None, uniforms_BU: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(num_accepted_B, next_ids_B) for all rows."""
        if temperatures_B is None or uniforms_BU is None:
            target_ids = logits_BKV.argmax(-1)
            if proposal is None:
                return torch.zeros_like(target_ids[:, 0]), target_ids[:, 0]
            return verify_greedy(target_ids, proposal.token_ids_BK)
        any_greedy = any(request.params.temperature == 0 for request in self._live)
        probs_BKV = distribution(
            logits_BKV, temperatures_B, nuclei(self._live, self.target.device), any_greedy=any_greedy
        )
        if proposal is None or proposal.probs_BKV is None:
            next_B = draw(probs_BKV[:, 0], uniforms_BU[:, -1])
            return torch.zeros_like(next_B), next_B
        return verify_sampled(
            probs_BKV, proposal.probs_BKV, proposal.token_ids_BK, uniforms_BU[:, self.num_draft_tokens :]
        )

    def _advance(self, request: LiveRequest, row: list[int], features_KD: Tensor) -> StepOutput:
        """Take one row's result: ids [last, d_1..d_K], number accepted, next token, whether the logits were finite."""
        *ids, accepted, next_id, finite = row
        if not finite:
            return StepOutput(request.request_id, [], "error", request.stats, "the target gave non-finite logits")
        drafted = ids[1 : 1 + accepted]
        emitted, reason = request.accept([*drafted, next_id])
        request.stats.count_round(self.num_draft_tokens, len(emitted))
        request.pending_start = request.num_cached
        request.num_cached += len(emitted)
        request.pending_tokens = emitted
        request.pending_features_PD = features_KD[: len(emitted)]
        if self.capture_features:
            request.captured.append(features_KD[: len(emitted)].clone())
        return self._output(request, emitted, reason)

    def _output(self, request: LiveRequest, emitted: list[int], reason: str | None) -> StepOutput:
        features = torch.cat(request.captured) if reason is not None and request.captured else None
        return StepOutput(request.request_id, emitted, reason, request.stats, features_TD=features)

    def _leave_ended(self, outputs: Sequence[StepOutput], *, first_slot: int) -> None:
        """Free the slots of ended requests, highest first, so that what moves is not to be freed itself."""
        for i in reversed(range(len(outputs))):
            if outputs[i].finish_reason == "error":
                # A mask cannot hide a NaN from whoever gets this slot next.
                self._cache.clear(first_slot + i)
                if self._proposer is not None:
                    self._proposer.cache.clear(first_slot + i)
            if outputs[i].finish_reason is not None:
                self._leave(first_slot + i)

    def _leave(self, slot: int) -> None:
        """Free a slot; the last row moves into it."""
        last = len(self._live) - 1
        if slot != last:
            moved = self._live[last]
            self._cache.move(last, slot, moved.num_cached)
            if self._proposer is not None:
                self._proposer.cache.move(last, slot, moved.pending_start)
            self._live[slot] = moved
        self._live.pop()


def run_to_end(engine: Engine) -> dict[str, list[StepOutput]]:
    """Step until nothing is left; outputs per request in order."""
    done: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            done.setdefault(output.request_id, []).append(output)
    return done
