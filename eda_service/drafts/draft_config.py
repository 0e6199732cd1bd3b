"""Shape of a draft: everything needed to build one, stored beside its weights. Imports no torch.

A kind of draft is one class here, found by `kind`; a stored shape that names none is `eagle1`, and one of `eagle1` is
written without it, so that older versions read it. The kind's module is in `drafts.kinds`, its decoding form in
`decoding.fused.kinds`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, TypeAdapter

from eda_service.config.base import Config
from eda_service.config.job import Mix, TrainConfig


@dataclass(frozen=True)
class PartSizes:
    """Parameters of a base draft, by what an adaptation may train beside the private expert."""

    fuse: int
    attention: int
    others: int


class DraftConfig(Config, ABC):
    """What every kind has: one decoder layer over the target's states."""

    kind: str = Field(description="which class of draft")
    hidden_size: int = Field(ge=8, description="D, the target's")
    num_heads: int = Field(ge=1, description="query heads N")
    num_kv_heads: int = Field(ge=1, description="key/value heads H")
    head_dim: int = Field(ge=2, description="width of one head")
    expert_width: int = Field(ge=8, description="m_s, the target's FFN width")
    vocab_size: int = Field(ge=2, description="V, the target's")
    rope_theta: float = Field(gt=0, description="rotary base")
    rms_norm_eps: float = Field(gt=0, lt=1, description="of the norm before the FFN")

    @property
    def captures(self) -> tuple[int, ...]:
        """Target states that the draft reads, side by side: i is the residual stream after i layers, 0 the embedding.

        Empty: the one state that the target's head reads.
        """
        return ()

    @property
    def feature_width(self) -> int:
        """C: of the target's states side by side."""
        return self.hidden_size * max(1, len(self.captures))

    @property
    def stored_width(self) -> int:
        """Numbers that a shard holds of one token: what the draft reads, and what the target's head reads where that is
        another state.
        """
        return self.feature_width + (self.hidden_size if self.captures else 0)

    @property
    @abstractmethod
    def sizes(self) -> PartSizes:
        """Parameters, embedding and the target's head not counted."""


class Eagle1Config(DraftConfig):
    """EAGLE-1: fc over embedding and last state, one layer without input norm, the target's head."""

    kind: Literal["eagle1"] = Field("eagle1", exclude=True)

    @property
    def sizes(self) -> PartSizes:
        """See `DraftConfig`."""
        d, width = self.hidden_size, self.num_heads * self.head_dim
        attention = 2 * d * width + 2 * d * self.num_kv_heads * self.head_dim
        return PartSizes(fuse=2 * d * d, attention=attention, others=d + 3 * d * self.expert_width)


CONFIGS: dict[str, type[DraftConfig]] = {"eagle1": Eagle1Config}


def _of_its_kind(value: Any) -> Any:
    """A stored shape as the class that its kind names."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind", "eagle1")
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise ValueError(f"kind {str(kind)[:32]!r} is none of {', '.join(sorted(CONFIGS))}")
    return CONFIGS[kind].model_validate(value)


AnyDraftConfig = Annotated[SerializeAsAny[DraftConfig], BeforeValidator(_of_its_kind)]
"""A field of any kind."""

_STORED: TypeAdapter[DraftConfig] = TypeAdapter(AnyDraftConfig)


def parse_draft_config(stored: str | Mapping[str, Any]) -> DraftConfig:
    """A stored shape, as JSON or parsed.

    Raises:
        ValueError: It is none, or of a kind that this version does not know.
    """
    return _STORED.validate_json(stored) if isinstance(stored, str) else _STORED.validate_python(stored)


class PrivateConfig(Config):
    """What an adaptation adds to or changes in the base draft."""

    private_width: int = Field(ge=1, description="m_p")
    mix: Mix = Mix.SOFTMAX

    @classmethod
    def of(cls, draft: DraftConfig, train: TrainConfig) -> PrivateConfig:
        """What a job adds to this draft; a private expert has at least 8 inner units."""
        width = max(8, round(draft.expert_width * train.private_width_fraction))
        return cls(private_width=width, mix=train.mix)


def parameter_counts(
    config: DraftConfig, private: PrivateConfig | None, *, train_fc: bool, train_attention: bool = False
) -> tuple[int, int]:
    """(all parameters, trainable parameters) of a draft, embedding and lm_head not counted (they are the target's).

    Without `private` everything trains. Checked against Table 4: d=3584, m=18944 with a half-width private expert.
    """
    d, sizes = config.hidden_size, config.sizes
    base = sizes.fuse + sizes.attention + sizes.others
    if private is None:
        return base, base
    added = 3 * d * private.private_width + (2 * d if private.mix is Mix.SOFTMAX else 0)
    return base + added, added + (sizes.fuse if train_fc else 0) + (sizes.attention if train_attention else 0)
