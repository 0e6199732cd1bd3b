"""Shape of a draft: everything needed to build one, stored beside its weights."""

from __future__ import annotations

from pydantic import Field

from eda_service.config.base import Config
from eda_service.config.job import Mix


class DraftConfig(Config):
    """Architecture of the base draft (one decoder layer of the target's family)."""

    hidden_size: int = Field(ge=8, description="D, the target's")
    num_heads: int = Field(ge=1, description="query heads N")
    num_kv_heads: int = Field(ge=1, description="key/value heads H")
    head_dim: int = Field(ge=2, description="width of one head")
    expert_width: int = Field(ge=8, description="m_s, the target's FFN width")
    vocab_size: int = Field(ge=2, description="V, the target's")
    rope_theta: float = Field(gt=0, description="rotary base")
    rms_norm_eps: float = Field(gt=0, lt=1, description="of the norm before the FFN")


class PrivateConfig(Config):
    """What an adaptation adds to or changes in the base draft."""

    private_width: int = Field(ge=1, description="m_p")
    mix: Mix = Mix.SOFTMAX


def parameter_counts(
    config: DraftConfig, private: PrivateConfig | None, *, train_fc: bool, train_attention: bool = False
) -> tuple[int, int]:
    """(all parameters, trainable parameters) of a draft, embedding and lm_head not counted (they are the target's).

    Without `private` everything trains. Checked against Table 4: d=3584, m=18944 with a half-width private expert.
    """
    d, width = config.hidden_size, config.num_heads * config.head_dim
    attention = 2 * d * width + 2 * d * config.num_kv_heads * config.head_dim
    fc = 2 * d * d
    base = fc + attention + d + 3 * d * config.expert_width
    if private is None:
        return base, base
    added = 3 * d * private.private_width + (2 * d if private.mix is Mix.SOFTMAX else 0)
    return base + added, added + (fc if train_fc else 0) + (attention if train_attention else 0)
