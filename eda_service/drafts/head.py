"""The head that scores a draft's states in decoding: rows of the target's head, or the draft's own (ADR 0004).

The target's rows are the tuned target's and frozen. A draft vocabulary does not affect losslessness: a token outside it
has draft probability 0 and can still come from the target.

Shapes: V vocabulary, W draft vocabulary (W <= V), D hidden.
"""

from __future__ import annotations

from torch import Tensor, nn

from eda_service.errors import TargetIncompatibleError
from eda_service.targets.decoder.fused import Norm, rms_norm
from eda_service.targets.decoder.packed import make_linear
from eda_service.targets.head import LmHead


class DraftHead(nn.Module):
    """Scores draft states.

    Args:
        lm_head: The target's head.
        vocab_W: Token ids the draft scores, in ascending order; None for all.
        own: Rows of the draft's own head, one for each token it scores; None: the target's rows are used.
        norm: Norm applied to the input of the own rows.

    Raises:
        TargetIncompatibleError: A draft token id lies outside the target's vocabulary.
    """

    def __init__(
        self, lm_head: LmHead, vocab_W: Tensor | None, *, own: LmHead | None = None, norm: Norm | None = None
    ) -> None:
        super().__init__()
        self.full_vocab_size = lm_head.vocab_size
        self.vocab_W = None if vocab_W is None else vocab_W.to(lm_head.rows_VD.device).long()
        if self.vocab_W is not None and int(self.vocab_W.max()) >= self.full_vocab_size:
            raise TargetIncompatibleError(
                f"draft vocabulary names token {int(self.vocab_W.max())}, the target has {self.full_vocab_size}; "
                "the pack was made for another target",
                param="pack",
            )
        rows = lm_head.take(self.vocab_W) if own is None else own
        self.linear = make_linear(rows.rows_VD, rows.bias_V)
        self._finish, self._norm = rows.finish, norm

    @property
    def size_bytes(self) -> int:
        """Size of the packed rows in bytes."""
        return self.linear.size_bytes + (0 if self._norm is None else self._norm.size_bytes)

    def forward(self, state: Tensor) -> Tensor:
        """Compute logits over the draft vocabulary (.., W)."""
        return self._finish(self.linear(state if self._norm is None else rms_norm(state, self._norm)))

    def to_token_ids(self, draft_ids: Tensor) -> Tensor:
        """Turn draft vocabulary indices into token ids."""
        return draft_ids if self.vocab_W is None else self.vocab_W[draft_ids]

    def scatter_probs(self, probs: Tensor) -> Tensor:
        """Spread draft probabilities (.., W) over the full vocabulary (.., V)."""
        if self.vocab_W is None:
            return probs
        full = probs.new_zeros(*probs.shape[:-1], self.full_vocab_size)
        full[..., self.vocab_W] = probs
        return full
