"""A base draft over what its target wrote: what it says as the first drafted token at each place of an answer.

Each sample is one forward of the draft from the states that are in memory anyway, by itself, so that its value does not
depend on the shard or the batch that it lies in. Where decoding would draft nothing, at an answer's first token, which
comes with the prompt, nothing is measured either. These are the places whose states Eq. 13 measures.

Shapes: L tokens of a sample, A of its answer but the first, D hidden, C width of what the draft reads, W draft
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.unroll import unroll
from eda_service.storage.samples.shards import Sample
from eda_service.targets.ends import TargetEnds
from eda_service.targets.head import LmHead

_AT_ONCE = 256
"""Places whose distributions are in memory together."""


@dataclass(frozen=True)
class Places:
    """Some places of an answer.

    Attributes:
        logits_AW: Logits of the draft.
        head_in_AD: Inputs of the target's head there.
        token_ids_A: Tokens that the target wrote there.
    """

    logits_AW: Tensor
    head_in_AD: Tensor
    token_ids_A: Tensor


class FirstDrafted:
    """A draft's first drafted tokens.

    Args:
        loaded: The draft, on the target's device and in its dtype.
        target: Target that wrote the samples.

    Attributes:
        lm_head: The target's rows of the draft vocabulary.
        vocab_W: Token ids of the draft vocabulary; None: all.
    """

    def __init__(self, loaded: LoadedDraft, target: TargetEnds) -> None:
        self._draft, self._embed = loaded.draft, target.embed
        self._device, self._dtype = target.device, target.dtype
        self.lm_head: LmHead = target.lm_head.take(loaded.vocab_W)
        self.vocab_W = None if loaded.vocab_W is None else loaded.vocab_W.to(target.device).long()

    def of(self, sample: Sample) -> Iterator[Places]:
        """The places of a sample's answer, in order, some at a time."""
        assert sample.features is not None
        token_ids_L = torch.tensor(sample.token_ids, device=self._device)
        features_LC = sample.features.to(self._device, self._dtype)
        states = unroll(self._draft, self._embed, token_ids_L[None], features_LC[None], 1, is_started=sample.is_started)
        # Row s of the first step says token s+2: from the answer's second token on.
        states_AD = next(states)[0, sample.num_prompt_tokens - 1 :]
        head_in_AD = sample.answer_states().to(self._device, self._dtype)
        tokens_A = token_ids_L[sample.num_prompt_tokens + 1 :]
        for start in range(0, len(tokens_A), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            yield Places(self._draft.logits(states_AD[some], self.lm_head), head_in_AD[some], tokens_A[some])
