"""Acceptance without verification: drafts are compared with answers that the target has already written.

At T=0 a speculative answer is the target's own, and with trees it is at every temperature (a seeded answer does not
depend on the draft, docs/explanation/decoding.md). So once the target has answered the prompts and its features are
kept, the accepted tokens of any draft, round by round, follow from the draft alone: the counts are those of decoding at
a small part of its cost, which makes a grid of many drafts over many tasks affordable. Chains at T>0 draw from the
draft's own distribution and must be decoded.

Shapes: T tokens of a transcript, D hidden, B rows, N nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from eda_service.config.job import TreeConfig
from eda_service.decoding.proposal import Chain, Pending, Proposer
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.decoding.tree import DraftTree
from eda_service.drafts.draft import Draft
from eda_service.drafts.head import DraftHead
from eda_service.engines.engine import TargetEngine, with_seeds
from eda_service.errors import InputError
from eda_service.progress import ProgressCallback, no_progress


@dataclass
class Transcript:
    """One answered prompt with the target's states.

    Attributes:
        token_ids: Prompt and answer, a stop token included.
        num_prompt_tokens: Number of prompt tokens; the answer follows them.
        features_TD: States of the target that the draft reads, of all tokens but the last.
    """

    token_ids: list[int]
    num_prompt_tokens: int
    features_TD: Tensor


def transcribe(
    engine: TargetEngine,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    batch_size: int,
    captures: Sequence[int] = (),
    on_progress: ProgressCallback = no_progress,
) -> list[Transcript]:
    """Let the target answer the prompts; request i has seed i.

    Args:
        engine: Engine that runs the target.
        prompts: Token ids of each prompt.
        params: Sampling parameters of all requests, except for the seed.
        batch_size: Number of requests decoded together.
        captures: Layers that the draft reads; empty: the inputs of the target's head.
        on_progress: Function that receives the progress of the answers.

    Returns:
        A transcript of each prompt that was answered.
    """
    if not prompts:
        return []
    answers = engine.answer(
        with_seeds(params, prompts),
        batch_size=min(batch_size, len(prompts)),
        max_tokens=max(map(len, prompts)) + params.max_new_tokens + 1,
        captures=captures,
        on_answer=lambda num_ended: on_progress("answer", num_ended, len(prompts), "prompts"),
    )
    return [
        Transcript([*prompt, *answer.token_ids], len(prompt), answer.states.draft_in)
        for prompt, answer in zip(prompts, answers.values(), strict=True)
        if answer.states is not None
    ]


@dataclass
class _Row:
    """A transcript during replay: tokens 0..place are known, the draft has seen the pairs before `start`."""

    transcript: Transcript
    place: int
    start: int
    emitted: list[int] = field(default_factory=list)
    stats: RequestStats = field(init=False)

    def __post_init__(self) -> None:
        self.stats = RequestStats(num_prompt_tokens=self.transcript.num_prompt_tokens)

    @property
    def num_left(self) -> int:
        return len(self.transcript.token_ids) - 1 - self.place

    @property
    def coming(self) -> list[int]:
        """Tokens of the answer that follow."""
        return self.transcript.token_ids[self.place + 1 :]

    def take(self, num_accepted: int, num_proposed: int, depth: int) -> None:
        """Emit a round's tokens: the accepted ones and one of the target's, up to the transcript's end."""
        emitted = min(num_accepted + 1, self.num_left)
        self.emitted.append(emitted)
        self.stats.num_new_tokens += emitted
        self.stats.count_round(num_proposed, emitted, depth)
        self.start, self.place = self.place, self.place + emitted


class Replay:
    """Runs a draft over transcripts.

    Args:
        draft: Draft in the form for inference.
        embed: The target's embedding.
        head: The rows of the target's head the draft scores.
        num_draft_tokens: Number of tokens K of a chain.
        tree: Shape of draft trees; None drafts chains.
        batch_size: Number of transcripts at the same time.

    Attributes:
        emitted: Numbers of tokens of each round of the last run, by transcript; all but a round's last token were
            drafted.
    """

    def __init__(
        self,
        draft: Draft,
        embed: nn.Module,
        head: DraftHead,
        *,
        num_draft_tokens: int = 5,
        tree: TreeConfig | None = None,
        batch_size: int = 32,
    ) -> None:
        self.draft, self.embed, self.head, self.tree, self.batch_size = draft, embed, head, tree, batch_size
        self.depth = num_draft_tokens if tree is None else tree.depth
        self.emitted: list[list[int]] = []

    @torch.inference_mode()
    def run(self, transcripts: Sequence[Transcript], temperature: float = 0.0) -> list[RequestStats]:
        """Count the rounds of each transcript, as the engine would report them.

        Raises:
            InputError: A chain is asked for at a temperature above 0.
        """
        if temperature and self.tree is None:
            raise InputError(
                f"a chain at temperature {temperature} cannot be replayed, it draws its tokens; decode instead"
            )
        places = self.depth if self.tree is None else self.tree.depth * self.tree.width
        longest = max(len(transcript.token_ids) for transcript in transcripts)
        proposer = Proposer.of(
            self.draft, self.embed, self.head, num_slots=self.batch_size, max_tokens=longest + places + 1
        )
        rows = [_Row(each, each.num_prompt_tokens, 0) for each in transcripts]
        waiting = [row for row in rows if row.num_left > 0]
        live: list[_Row] = []
        while waiting or live:
            while waiting and len(live) < self.batch_size:
                self._join(proposer, waiting.pop(0), len(live), live)
            self._round(proposer, live, temperature)
            for slot in reversed(range(len(live))):
                if live[slot].num_left == 0:
                    last = live.pop()
                    if slot < len(live):
                        proposer.cache.move(len(live), slot, last.start)
                        live[slot] = last
        self.emitted = [row.emitted for row in rows]
        return [row.stats for row in rows]

    @staticmethod
    def _join(proposer: Proposer, row: _Row, slot: int, live: list[_Row]) -> None:
        """Run the draft over all pairs of the prompt but the last."""
        row.start = row.place - 1
        if row.start:
            tokens_1P = torch.tensor([row.transcript.token_ids[1 : row.place]], device=proposer.device)
            proposer.extend(tokens_1P, row.transcript.features_TD[None, : row.start], [0], first_slot=slot)
        live.append(row)

    def _round(self, proposer: Proposer, live: Sequence[_Row], temperature: float) -> None:
        pending = _pending(live)
        if self.tree is None:
            drafted = proposer.chain(pending, self.depth)
            for row, count in zip(live, _chain_hits(drafted, live), strict=True):
                row.take(count, self.depth, self.depth)
            return
        temperatures_B = torch.full((len(live),), temperature, device=proposer.device)
        tree = proposer.tree(pending, self.tree, temperatures_B)
        for row, count in zip(live, _tree_hits(tree, live), strict=True):
            row.take(count, tree.token_ids_BN.shape[1], self.depth)


def _pending(live: Sequence[_Row]) -> Pending:
    """Collect the pairs (h_t, x_{t+1}) of places start..place-1 of each row, padded on the right."""
    counts = [row.place - row.start for row in live]
    first = live[0].transcript.features_TD
    features_BPC = first.new_zeros(len(live), max(counts), first.shape[1])
    tokens_BP = torch.zeros(len(live), max(counts), dtype=torch.long, device=first.device)
    for i, (row, count) in enumerate(zip(live, counts, strict=True)):
        features_BPC[i, :count] = row.transcript.features_TD[row.start : row.place]
        tokens_BP[i, :count] = torch.tensor(row.transcript.token_ids[row.start + 1 : row.place + 1])
    return Pending(tokens_BP, features_BPC, [row.start for row in live], counts)


def _chain_hits(drafted: Chain, live: Sequence[_Row]) -> list[int]:
    """Count the drafted tokens of each row up to the first that differs from the target's."""
    hits = []
    for row, tokens in zip(live, drafted.token_ids_BK.tolist(), strict=True):
        agree = [ours == theirs for ours, theirs in zip(tokens, row.coming, strict=False)]
        hits.append([*agree, False].index(False))
    return hits


def _tree_hits(tree: DraftTree, live: Sequence[_Row]) -> list[int]:
    """Count the tokens of the target's answer that lie on a path of each row's tree."""
    hits = []
    for row, tokens, parents in zip(live, tree.token_ids_BN.tolist(), tree.parents_BN.tolist(), strict=True):
        children = {pair: node for node, pair in enumerate(zip(parents, tokens, strict=True), start=1)}
        node = count = 0
        for token in row.coming:
            if (node, token) not in children:
                break
            node, count = children[node, token], count + 1
        hits.append(count)
    return hits
