"""The interface of a draft: the seam between kinds of drafts and all other code.

A draft turns the target's states into a state of its own (`start`), computes the next state from a token (`step`; the
caller decides what its queries attend to), and scores states over its vocabulary (`logits` in training, `head` in
decoding). The private expert is placed in its feed-forward module. No other code accesses a draft's layers; a kind is a
class here, a config in `draft_config`, a form in `decoding.fused`, and its name in three tables.

For every kind, `LoadedDraft.vocab_W` holds the token ids of the rows of its vocabulary.

Shapes: B rows, L positions, C width of the target's states that it reads, D hidden, N query heads, H key/value heads,
d head width, V vocabulary, W draft vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from eda_service.drafts.draft_config import DraftConfig, PrivateConfig
from eda_service.drafts.expert import Expert
from eda_service.drafts.head import DraftHead
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.targets.head import LmHead

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps query (B, N, L, d), key and value (B, H, L, d) of new positions to the attention's result (B, N, L, d)."""


@dataclass(frozen=True)
class Places:
    """Names of a draft's modules that other code must tell apart.

    Attributes:
        ffn: Name of the feed-forward module, which takes the private expert.
        fuse: Names of the modules that read the target's states first.
        attention: Names of the attention's modules.
        head: Names of the draft's own norm and head; empty if it scores with the target's head.
        embedding: Name of the draft's own embedding, if it has one; no training method changes it.
        added_head: Name of the rows that an adaptation adds to a head of the draft's own; every method trains them.
    """

    ffn: str
    fuse: tuple[str, ...]
    attention: tuple[str, ...]
    head: tuple[str, ...] = ()
    embedding: str = "embed_tokens"
    added_head: str = "lm_head_added"


class Draft(nn.Module, ABC):
    """A base draft, or with `add_private` an adapted one.

    Attributes:
        places: Names of its modules.
        predicts_head_in: Whether its state estimates the next input of the target's head, so that the two can be
            compared (regression term of Eq. 10).
    """

    places: ClassVar[Places]
    predicts_head_in: ClassVar[bool]

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        self.private: PrivateConfig | None = None

    @property
    def ffn(self) -> nn.Module:
        """The feed-forward module: one expert, or the shared-private module."""
        return self.get_submodule(self.places.ffn)

    def add_private(self, private: PrivateConfig) -> None:
        """Put a new private expert and gate beside the FFN; the draft's output is unchanged by this."""
        shared = self.ffn
        if not isinstance(shared, Expert):
            raise ValueError("this draft has a private expert already")
        module = SharedPrivateFFN(
            shared, hidden_size=self.config.hidden_size, private_width=private.private_width, mix=private.mix
        )
        weight = shared.down_proj.weight
        self.set_submodule(self.places.ffn, module.to(weight.device, weight.dtype))
        self.private = private

    def add_embedding(self) -> None:
        """Make the embedding table of a draft that has its own."""
        config = self.config
        if config.own_embedding:
            self.add_module(self.places.embedding, nn.Embedding(config.vocab_size, config.hidden_size))

    def embedding(self, target: nn.Module) -> nn.Module:
        """Return the module of the embeddings that `step` reads: the draft's own table, else the target's."""
        own = getattr(self, self.places.embedding, target)
        assert isinstance(own, nn.Module)
        return own

    @abstractmethod
    def start(self, draft_in_BLC: Tensor) -> Tensor:
        """Turn the target's states into the state (B, L, D) that the first step reads."""

    @abstractmethod
    def step(self, embeds_BLD: Tensor, state_BLD: Tensor, positions_BL: Tensor, attend: Attend) -> Tensor:
        """Compute the state (B, L, D) after one more token.

        Args:
            embeds_BLD: Embeddings of tokens t+1.
            state_BLD: States of positions t.
            positions_BL: Positions t.
            attend: Function that stores the new keys and values and attends with the queries.
        """

    def logits(self, state: Tensor, lm_head: LmHead) -> Tensor:
        """Compute the logits (.., W) of states (.., D), with gradients.

        Args:
            state: State of any step.
            lm_head: The target's rows for the draft vocabulary; a draft with a head of its own does not use them.
        """
        return lm_head.logits(state)

    def begin_as(self, lm_head: LmHead) -> None:
        """Initialise a head of the draft's own with these rows of the target's; without such a head do nothing."""

    def extend_head(self, count: int) -> None:
        """Add rows of zeros to a head of the draft's own, for tokens after those it scores; without such a head do
        nothing.
        """

    def begin_added(self, lm_head: LmHead) -> None:
        """Initialise the added rows with these rows of the target's; without added rows do nothing."""

    def head(self, lm_head: LmHead, vocab_W: Tensor | None) -> DraftHead:
        """Return the head that gives the same scores in decoding.

        Args:
            lm_head: The target's head, all rows.
            vocab_W: Token ids of the draft vocabulary; None: all.
        """
        return DraftHead(lm_head, vocab_W)
