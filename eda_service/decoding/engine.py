"""The engine: requests join and leave between rounds, one proposal and one batched verify per round for all of them.

Live rows keep slots 0..B-1; when one leaves, the last row takes its slot. Without a draft the same loop decodes
autoregressively: that is the speedup baseline and the self-generator. Not thread-safe: one thread owns an engine.

Shapes: B live rows, P prompt length, L verified tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch

from eda_service.config.job import TreeConfig
from eda_service.decoding.admission import check_request, prefill_groups
from eda_service.decoding.fused.kinds import whole_parts
from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.decoding.live import LiveRequest, adapters_of
from eda_service.decoding.policy import AlwaysSpeculate, Policy
from eda_service.decoding.proposal import Proposer
from eda_service.decoding.request import RequestStats, SamplingParams, StepOutput
from eda_service.decoding.rounds import Rounds
from eda_service.decoding.sampling import is_finite
from eda_service.decoding.step_outputs import StepOutputs, add_logprobs
from eda_service.decoding.variants import BASE, Variant, VariantLoad, Variants
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.errors import TargetIncompatibleError
from eda_service.targets.adapters.adapter import Adapter
from eda_service.targets.decoder import tiles
from eda_service.targets.loader import Target


class Engine:
    """Decodes many requests in one continuous batch over one target: with one draft or none, or with many variants
    (`add_variant`), each of which has an adapter and a draft of its own.

    Args:
        target: Frozen target.
        draft: Draft, or None for autoregressive decoding.
        draft_head: The rows of the target's head the draft scores; needed with a draft.
        num_draft_tokens: K, longest chain; ignored without a draft and with a tree.
        tree: Shape of draft trees; None drafts chains.
        policy: Policy that chooses the depth of each round; default: always the greatest depth.
        max_batch: Largest number of requests in the batch; more requests wait in order of arrival.
        max_tokens: Largest sum of prompt and answer tokens of a request; capped by the target's context.
        capture_features: Hand out the target's states when a request ends.
        captures: Layers whose states a draft elsewhere will read, if this engine has no draft; empty: only the states
            that the head reads.
        one_order: Give a greedy or seeded request the same answer whatever else is in the batch (`targets.tiles`); this
            is slower.
        seed: Seed of the random streams of requests without a seed of their own.
    """

    def __init__(
        self,
        target: Target,
        draft: Draft | None = None,
        draft_head: DraftHead | None = None,
        *,
        num_draft_tokens: int = 5,
        tree: TreeConfig | None = None,
        policy: Policy | None = None,
        max_batch: int = 32,
        max_tokens: int = 2048,
        capture_features: bool = False,
        captures: Sequence[int] = (),
        one_order: bool = False,
        seed: int = 0,
    ) -> None:
        self.target = target
        self.max_batch = max_batch
        self.max_tokens = min(max_tokens, target.max_context)
        self._seed, self._one_order = seed, one_order
        self._num_seen = 0
        self._proposer: Proposer | None = None
        self._step_outputs = StepOutputs(drafts=False, capture_features=capture_features)
        self._policy: Policy = policy or AlwaysSpeculate()
        self._depth = num_draft_tokens if tree is None else tree.depth
        num_nodes = num_draft_tokens if tree is None else tree.size
        self._num_places = num_draft_tokens if tree is None else tree.depth * tree.width
        self._cache = target.new_cache(max_batch, self.max_tokens + num_nodes + 1)
        self._rounds = Rounds(target, self._cache, None, tree, captures)
        self._waiting: deque[LiveRequest] = deque()
        self._live: list[LiveRequest] = []
        self._cancelled: list[StepOutput] = []
        decoding_draft = None if draft is None or draft_head is None else DecodingDraft(whole_parts(draft), draft_head)
        self._variants = Variants(target, decoding_draft)
        if decoding_draft is not None:
            self._propose_with(decoding_draft)

    def _propose_with(self, decoding_draft: DecodingDraft) -> None:
        """Make the proposer from the first draft; later drafts must have the same shape."""
        if self._proposer is None:
            most = self.max_tokens + self._num_places + 1
            self._proposer = Proposer(decoding_draft, self.target.embed, num_slots=self.max_batch, max_tokens=most)
            self._rounds.proposer = self._proposer
            self._rounds.captures = decoding_draft.parts.config.captures
            self._step_outputs.drafts = True
            for request in self._live:
                request.forget_features(decoding_draft.parts.config.feature_width)
        elif decoding_draft.parts.config != self._proposer.decoding_draft.parts.config:
            raise TargetIncompatibleError(
                "the draft has another shape than the drafts loaded here; use a base draft made like theirs",
                param="base_draft",
            )

    @property
    def num_draft_tokens(self) -> int:
        """The largest number of drafted tokens that a round can accept; 0 without a draft."""
        return 0 if self._proposer is None else self._depth

    def add_variant(
        self, name: str, *, adapter: Adapter | None = None, decoding_draft: DecodingDraft | None = None
    ) -> Variant:
        """Serve one more variant, or a new version of one. Requests submitted from now on get the new version; requests
        that have begun end on the version they began with.

        Args:
            name: Name of the variant, to be given to `submit`.
            adapter: LoRA adapter over the target; None: the target itself.
            decoding_draft: Draft of the variant; None decodes autoregressively.

        Raises:
            TargetIncompatibleError: Adapter or draft does not fit the target.
            ResourceError: The sum of the adapters' ranks is above the limit.
        """
        if decoding_draft is not None:
            self._propose_with(decoding_draft)
        variant = self._variants.add(name, adapter, decoding_draft)
        self._forget_rows()
        return variant

    def remove_variant(self, name: str) -> None:
        """Take no more requests for a variant; its memory is freed when its last request ends.

        Raises:
            NotFoundError: The engine has no such variant.
        """
        self._variants.remove(name)
        self._forget_rows()

    def variant_loads(self) -> dict[str, VariantLoad]:
        """Return memory and number of requests of each variant now."""
        return self._variants.loads()

    @property
    def has_work(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self._waiting or self._live or self._cancelled)

    @property
    def num_waiting(self) -> int:
        """Number of requests that have not been prefilled."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Number of requests in the batch."""
        return len(self._live)

    def submit(
        self,
        request_id: str,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        variant: str = BASE,
        draft_of: str | None = None,
    ) -> None:
        """Queue a request; it joins the batch at the next round with a free slot.

        Args:
            request_id: Id that the request's outputs carry.
            prompt_ids: Token ids of the prompt, one or more.
            params: Sampling parameters of the request.
            variant: Variant whose target (and draft) decodes the request.
            draft_of: Another variant whose draft is used instead; the text stays the target's own, only the speed
                changes.

        Raises:
            NotFoundError: The engine has no such variant.
            RequestError: Empty prompt, or a prompt or stop token out of vocabulary.
            ContextLengthError: The request needs more tokens than the context holds.
        """
        chosen = self._variants[variant]
        check_request(prompt_ids, params, vocab_size=self.target.vocab_size, max_tokens=self.max_tokens)
        decoding_draft = (chosen if draft_of is None else self._variants[draft_of]).decoding_draft
        own_stops = frozenset[int]() if params.ignore_eos else self.target.stop_token_ids
        seed = params.seed if params.seed is not None else self._seed * 1_000_003 + self._num_seen
        self._num_seen += 1
        chosen.num_requests += 1
        self._waiting.append(
            LiveRequest(
                request_id=request_id,
                prompt_ids=list(prompt_ids),
                params=params if decoding_draft is not None else replace(params, speculate=False),
                stop_ids=own_stops | params.stop_token_ids,
                generator=torch.Generator().manual_seed(seed),
                stats=RequestStats(num_prompt_tokens=len(prompt_ids)),
                variant=chosen,
                decoding_draft=decoding_draft,
            )
        )

    @torch.inference_mode()
    def cancel(self, request_id: str) -> None:
        """Drop a request; its slot is free at the next round. Unknown ids are ignored: the request may
        have just ended.
        """
        for request in list(self._waiting):
            if request.request_id == request_id:
                self._waiting.remove(request)
                self._end(request)
                self._cancelled.append(StepOutput(request_id, [], "cancelled", request.stats))
        for slot, request in enumerate(self._live):
            if request.request_id == request_id:
                self._leave(slot)
                self._cancelled.append(StepOutput(request_id, [], "cancelled", request.stats))
                return

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Admit the waiting requests that fit, then run one round for all live requests."""
        outputs, self._cancelled = self._cancelled, []
        with tiles.one_order(self._one_order):
            while self._waiting and len(self._live) < self.max_batch:
                for group in self._arrivals():
                    outputs.extend(self._admit(group))
            if self._live:
                outputs.extend(self._round())
        return outputs

    def _arrivals(self) -> list[list[LiveRequest]]:
        """Take the waiting requests that fit the free slots, in order of arrival, in groups that need
        little padding.
        """
        free = self.max_batch - len(self._live)
        return prefill_groups([self._waiting.popleft() for _ in range(min(free, len(self._waiting)))])

    def _admit(self, group: list[LiveRequest]) -> list[StepOutput]:
        """Prefill a group into the next slots and sample each first token from its prompt's last position."""
        begun, slot = time.perf_counter(), len(self._live)
        width = max(len(request.prompt_ids) for request in group)
        padded = [request.prompt_ids + [0] * (width - len(request.prompt_ids)) for request in group]
        ids_BP = torch.tensor(padded, device=self.target.device)
        adapters = adapters_of(group)
        states = self.target.forward(
            ids_BP,
            self._cache,
            [0] * len(group),
            first_slot=slot,
            adapters=adapters,
            captures=self._rounds.captures,
        )
        rows_B = torch.arange(len(group), device=self.target.device)
        last_B = torch.tensor([len(request.prompt_ids) - 1 for request in group], device=self.target.device)
        logits_B1V = self.target.head(states.head_in[rows_B, last_B][:, None])
        first_B = self._rounds.choose(group, logits_B1V).squeeze(1)
        finite_B = is_finite(logits_B1V)
        first_ids, finite = first_B.tolist(), finite_B.tolist()
        for request in group:
            request.stats.queue_s, request.stats.prefill_s = begun - request.arrived_s, time.perf_counter() - begun
        self._live.extend(group)
        outputs = [
            self._step_outputs.of_prefill(request, states[i], first, is_fine)
            for i, (request, first, is_fine) in enumerate(zip(group, first_ids, finite, strict=True))
        ]
        add_logprobs(group, outputs, first_ids, logits_B1V, states.head_in, self.target.head)
        self._leave_ended(outputs, first_slot=slot)
        return outputs

    def _round(self) -> list[StepOutput]:
        """Propose, verify, emit."""
        live = self._live
        depth = 0
        if self._proposer is not None and any(request.params.speculate for request in live):
            depth = self._policy.depth(live, self.num_draft_tokens)
        begun = time.perf_counter()
        if depth:
            self._rounds.catch_up(live)
        started = time.perf_counter()
        results = self._rounds.run(live, depth, self._policy.confidence(live, depth))
        self._policy.observe(live, depth, results, time.perf_counter() - started, started - begun)
        outputs = [
            self._step_outputs.of_round(request, result, depth) for request, result in zip(live, results, strict=True)
        ]
        self._leave_ended(outputs, first_slot=0)
        return outputs

    def _leave_ended(self, outputs: Sequence[StepOutput], *, first_slot: int) -> None:
        """Free the slots of ended requests, highest slot first, so that no row is moved that is itself about to be
        freed.
        """
        for i in reversed(range(len(outputs))):
            if outputs[i].finish_reason == "error":
                # Masks do not hide a NaN from the request that gets this slot next.
                self._cache.clear(first_slot + i)
                if self._proposer is not None:
                    self._proposer.cache.clear(first_slot + i)
            if outputs[i].finish_reason is not None:
                self._leave(first_slot + i)

    def _leave(self, slot: int) -> None:
        """Free a slot; the last row moves into it."""
        last = len(self._live) - 1
        self._end(self._live[slot])
        if slot != last:
            moved = self._live[last]
            self._cache.move(last, slot, moved.num_cached)
            if self._proposer is not None:
                self._proposer.cache.move(last, slot, moved.pending_start)
            self._live[slot] = moved
        self._live.pop()

    def _end(self, request: LiveRequest) -> None:
        """Release a request's variant, and the draft of another variant that it used, which may have been removed
        meanwhile.
        """
        is_own = request.decoding_draft is request.variant.decoding_draft
        if self._variants.end(request.variant) or not is_own:
            self._forget_rows()

    def _forget_rows(self) -> None:
        """Drop the references to the drafts of the last batch, so that a removed draft is freed before
        the next batch.
        """
        if self._proposer is not None:
            self._proposer.forget()


def run_to_end(engine: Engine) -> dict[str, list[StepOutput]]:
    """Step until no request is left; return the outputs of each request in order."""
    done: dict[str, list[StepOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            done.setdefault(output.request_id, []).append(output)
    return done
