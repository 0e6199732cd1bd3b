"""Samples by how many of the target's tokens the base draft does not say: what greedy decoding would lose there.

    sample_value = share of the answer's tokens that are not the draft's most likely one

It takes no product of the target's head, since the target's tokens are known. Where answers were sampled, a token is
the target's choice and not its most likely one: `draft_loss` compares the distributions. Eq. 14's quantile is not used.

Shapes: A answer tokens but the first, W draft vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from eda_service.selection.selector import DraftSelector, Scorer

if TYPE_CHECKING:
    from eda_service.drafts.checkpoint import LoadedDraft
    from eda_service.selection.draft_scorer import FirstDrafted
    from eda_service.storage.samples.shards import Sample
    from eda_service.targets.ends import TargetEnds


@dataclass(frozen=True)
class DraftRejectionsScorer:
    """Share of tokens that the draft does not say.

    Attributes:
        drafted: The draft beside the target.
    """

    drafted: FirstDrafted

    def sample_value(self, sample: Sample) -> float:
        """See `Scorer`."""
        import torch

        num_rejected = 0
        with torch.inference_mode():
            for places in self.drafted.of(sample):
                drafted_A = places.logits_AW.argmax(-1)
                tokens_A = drafted_A if self.drafted.vocab_W is None else self.drafted.vocab_W[drafted_A]
                num_rejected += int((tokens_A != places.token_ids_A).sum())
        return num_rejected / (sample.num_answer_tokens - 1)


class MostDraftRejections(DraftSelector):
    """Keeps what the base draft says least of."""

    value_name: ClassVar[str] = "draft_rejections"
    compares_distributions: ClassVar[bool] = False

    def beside(self, loaded: LoadedDraft, target: TargetEnds) -> Scorer:
        """See `DraftSelector`."""
        from eda_service.selection.draft_scorer import FirstDrafted

        return DraftRejectionsScorer(FirstDrafted(loaded, target))
