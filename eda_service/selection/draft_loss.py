"""Samples by how far the base draft's distributions are from the target's: what speculative sampling would lose there.

    sample_value = mean over the answer of 1 - sum_w min(p(w), q(w))

p is the target's distribution, q the draft's at the first drafted place, both at T=1. The term is the total variation
distance, and the probability that the target rejects the draft's token (Leviathan et al., arXiv 2211.17192). It is 0
where the draft has learnt the target, however undecided the target is; a cross-entropy would rank samples by the
target's own entropy, which no training takes away. For a draft vocabulary, p is what training holds against q: the
distribution over those tokens alone. Eq. 14's quantile is not used.

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
class DraftLossScorer:
    """Mean total variation distance of draft and target.

    Attributes:
        drafted: The draft beside the target.
    """

    drafted: FirstDrafted

    def sample_value(self, sample: Sample) -> float:
        """See `Scorer`."""
        import torch

        lost = torch.zeros((), dtype=torch.float64, device=self.drafted.lm_head.rows_VD.device)
        with torch.inference_mode():
            for places in self.drafted.of(sample):
                wanted_AW = self.drafted.lm_head.logits(places.head_in_AD).float().softmax(-1)
                draft_AW = places.logits_AW.float().softmax(-1)
                lost += (1.0 - torch.minimum(wanted_AW, draft_AW).sum(-1)).double().sum()
        return float(lost) / (sample.num_answer_tokens - 1)


class LargestDraftLoss(DraftSelector):
    """Keeps what the base draft is worst at."""

    value_name: ClassVar[str] = "draft_loss"
    compares_distributions: ClassVar[bool] = True

    def beside(self, loaded: LoadedDraft, target: TargetEnds) -> Scorer:
        """See `DraftSelector`."""
        from eda_service.selection.draft_scorer import FirstDrafted

        return DraftLossScorer(FirstDrafted(loaded, target))
