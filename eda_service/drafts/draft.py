"""What a draft is to everybody who does not build one: the seam between kinds of drafts and the rest.

A draft turns the target's states into a state of its own (`start`), moves it on by one token (`step`; who calls it says
what its queries attend to), and scores states over its vocabulary (`logits` in training, `head` in decoding). Its
feed-forward module is where the private expert goes. Nobody reaches past this into a draft's layers; a kind is a class
here, a config in `draft_config`, a form in `decoding.fused`, and its name in three tables.

Which token ids the rows of its vocabulary are is `LoadedDraft.vocab_W`, for every kind.

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
"""Query (B, N, L, d), key and value (B, H, L, d) of new positions to what was attended (B, N, L, d)."""


@dataclass(frozen=True)
class Places:
    """Names of the modules that others must tell apart.

    Attributes:
        ffn: Where the private expert goes.
        fuse: What meets the target's states first.
        attention: The layer's attention.
        head: Norm and head of its own; empty where it scores with the target's.
        embedding: Of its own, where it has one; no method trains it.
        added_head: Rows that an adaptation adds to a head of its own; every method trains them.
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
        places: Of its modules.
        predicts_head_in: Its state is an estimate of what the target's head reads next, so that it can be held against
            it (Eq. 10's regression).
    """

    places: ClassVar[Places]
    predicts_head_in: ClassVar[bool]

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        self.private: PrivateConfig | None = None

    @property
    def ffn(self) -> nn.Module:
        """One expert, or the shared-private module."""
        return self.get_submodule(self.places.ffn)

    def add_private(self, private: PrivateConfig) -> None:
        """Put a fresh private expert and gate beside the FFN; the draft's output is unchanged by this."""
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
        """Make the table of a draft that has its own."""
        config = self.config
        if config.own_embedding:
            self.add_module(self.places.embedding, nn.Embedding(config.vocab_size, config.hidden_size))

    def embedding(self, target: nn.Module) -> nn.Module:
        """What gives the embeddings that `step` reads: the draft's own table, else the target's."""
        own = getattr(self, self.places.embedding, target)
        assert isinstance(own, nn.Module)
        return own

    @abstractmethod
    def start(self, draft_in_BLC: Tensor) -> Tensor:
        """The target's states as the state (B, L, D) that the first step reads."""

    @abstractmethod
    def step(self, embeds_BLD: Tensor, state_BLD: Tensor, positions_BL: Tensor, attend: Attend) -> Tensor:
        """The state (B, L, D) after one token more.

        Args:
            embeds_BLD: Of token t+1.
            state_BLD: Of position t.
            positions_BL: t.
            attend: What the queries see; told the new keys and values.
        """

    def logits(self, state: Tensor, lm_head: LmHead) -> Tensor:
        """Logits (.., W) of states (.., D), with gradients.

        Args:
            state: Of any step.
            lm_head: The target's rows of the draft vocabulary; a draft with a head of its own does not use them.
        """
        return lm_head.logits(state)

    def begin_as(self, lm_head: LmHead) -> None:
        """Let a head of the draft's own begin as these rows of the target's; nothing for a draft without one."""

    def extend_head(self, count: int) -> None:
        """Add rows of zeros to a head of the draft's own, for tokens behind those it scores; nothing without one."""

    def begin_added(self, lm_head: LmHead) -> None:
        """Let the added rows begin as these of the target's; nothing without added rows."""

    def head(self, lm_head: LmHead, vocab_W: Tensor | None) -> DraftHead:
        """The same scores for decoding.

        Args:
            lm_head: The target's, all rows.
            vocab_W: Token ids of the draft vocabulary; None: all.
        """
        return DraftHead(lm_head, vocab_W)
