"""The target's lm_head as a value: its rows, and its family's operations after the product (together Eq. 7's W_o).

Logits are computed in many places: when a draft is verified, sampled, trained, scored or exported. All of them use this
module, so that a bias, a scale or a soft cap applies either in all of them or in none.

    logits = cap tanh(scale (W x + b) / cap)

Shapes: V vocabulary, W some of its rows, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eda_service.targets.decoder.packed import make_linear


@dataclass(frozen=True)
class LmHead:
    """Rows of a head and the operations after the product.

    Attributes:
        rows_VD: The weight, frozen.
        bias_V: Bias added to the product; None for almost every family.
        scale: Factor of the logits (Cohere's `logit_scale`, one over Granite's `logits_scaling`).
        cap: Bound that the logits approach (Gemma's `final_logit_softcapping`); None: no bound.
    """

    rows_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @property
    def vocab_size(self) -> int:
        """Number of rows."""
        return self.rows_VD.shape[0]

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (.., V) of features (.., D), with gradients if the features have them."""
        return self.finish(F.linear(features, self.rows_VD, self.bias_V))

    def finish(self, products: Tensor) -> Tensor:
        """Compute logits from the products W x + b."""
        if self.scale != 1.0:
            products = products * self.scale
        return products if self.cap is None else self.cap * torch.tanh(products / self.cap)

    def take(self, ids_W: Tensor | None) -> LmHead:
        """Select the rows of some tokens; None selects all."""
        if ids_W is None:
            return self
        ids_W = ids_W.to(self.rows_VD.device).long()
        bias_W = None if self.bias_V is None else self.bias_V[ids_W]
        return replace(self, rows_VD=self.rows_VD[ids_W].contiguous(), bias_V=bias_W)


class InferenceHead(nn.Module):
    """A head whose product is packed for decoding.

    Args:
        head: Head whose rows are packed; the rows are not kept.
    """

    def __init__(self, head: LmHead) -> None:
        super().__init__()
        self.linear = make_linear(head.rows_VD, head.bias_V)
        self._finish = head.finish

    @property
    def size_bytes(self) -> int:
        """Bytes of the packed rows."""
        return self.linear.size_bytes

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits (.., V) of features (.., D)."""
        return self._finish(self.linear(features))


def lm_head_of(model: Any) -> LmHead:
    """Make the head of a transformers causal LM, with the operations that the model's own forward applies after it.

    An operation of a family that none of the names here stand for is noticed when the logits are compared
    (`eda_service.targets.fidelity`).
    """
    linear = model.get_output_embeddings()
    bias = getattr(linear, "bias", None)
    return make_head(linear.weight.detach(), None if bias is None else bias.detach(), model.config)


def make_head(rows_VD: Tensor, bias_V: Tensor | None, config: Any) -> LmHead:
    """Make the head from its weights and the config, which names the operations after the product."""
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)
    return LmHead(rows_VD=rows_VD, bias_V=bias_V, scale=scale, cap=None if cap is None else float(cap))
