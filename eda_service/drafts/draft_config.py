"""Config of a draft: everything needed to build one, stored beside its weights. Imports no torch.

A kind of draft is one class here, found by `kind`; a stored config without `kind` is `eagle1`, and an `eagle1` config
is written without it, so that older versions can read it. The kind's module is in `drafts.kinds`, its decoding form in
`decoding.fused.kinds`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, TypeAdapter, model_validator

from eda_service.config.base import Config
from eda_service.config.job import Method, Mix, TrainConfig
from eda_service.config.loss import LossConfig


def _is_none(value: object) -> bool:
    return value is None


def _is_false(value: object) -> bool:
    return value is False


@dataclass(frozen=True)
class PartSizes:
    """Numbers of parameters of a base draft, by the part that an adaptation may train beside the private expert."""

    fuse: int
    attention: int
    others: int


class RopeScaling(Config):
    """Scaling of a draft's rotation for longer texts, with the keys of transformers' `rope_parameters`; keys that a
    type does not read are None.
    """

    rope_type: Literal["linear", "llama3", "yarn"] = Field(description="which rule")
    factor: float = Field(ge=1, description="by which positions are stretched")
    original_max_position_embeddings: int | None = Field(None, ge=1, description="positions before stretching")
    low_freq_factor: float | None = Field(None, gt=0, description="llama3: wavelengths above are divided by the factor")
    high_freq_factor: float | None = Field(None, gt=0, description="llama3: wavelengths below stay as they are")
    beta_fast: float | None = Field(None, gt=0, description="yarn: rotations from which a frequency stays")
    beta_slow: float | None = Field(None, gt=0, description="yarn: rotations up to which it is divided")
    attention_factor: float | None = Field(None, gt=0, description="yarn: of cosines and sines; None: from the factor")
    mscale: float | None = Field(None, gt=0, description="yarn: numerator of the attention factor")
    mscale_all_dim: float | None = Field(None, gt=0, description="yarn: its denominator")
    truncate: bool | None = Field(None, description="yarn: round the bounds of the ramp; None: yes")

    @model_validator(mode="after")
    def _complete(self) -> RopeScaling:
        needed = {
            "linear": (),
            "llama3": ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
            "yarn": ("original_max_position_embeddings",),
        }[self.rope_type]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"rope type {self.rope_type} needs {', '.join(missing)}")
        return self


class DraftConfig(Config, ABC):
    """The fields that every kind has: one decoder layer over the target's states.

    A field that older versions do not know is written only if it differs from the default.
    """

    kind: str = Field(description="which class of draft")
    hidden_size: int = Field(ge=8, description="D, the draft's")
    target_hidden_size: int | None = Field(
        None, ge=8, exclude_if=_is_none, description="width of the target's states; None: D"
    )
    num_heads: int = Field(ge=1, description="query heads N")
    num_kv_heads: int = Field(ge=1, description="key/value heads H")
    head_dim: int = Field(ge=2, description="width of one head")
    expert_width: int = Field(ge=8, description="m_s, the target's FFN width")
    vocab_size: int = Field(ge=2, description="V, the target's")
    rope_theta: float = Field(gt=0, description="rotary base")
    rope_scaling: RopeScaling | None = Field(None, exclude_if=_is_none, description="None: the plain rotation")
    rms_norm_eps: float = Field(gt=0, lt=1, description="of its norms")
    fc_bias: bool = Field(False, exclude_if=_is_false, description="fc has one")
    qkv_bias: bool = Field(False, exclude_if=_is_false, description="q, k and v have one")
    o_bias: bool = Field(False, exclude_if=_is_false, description="the attention's output has one")
    own_embedding: bool = Field(False, exclude_if=_is_false, description="it has a table of its own; no: the target's")

    default_unroll_steps: ClassVar[int] = 1
    """Number of drafted positions that training unrolls if the settings name none."""

    @property
    def target_width(self) -> int:
        """Width of the target's states."""
        return self.target_hidden_size or self.hidden_size

    @property
    def captures(self) -> tuple[int, ...]:
        """Indices of the target's states that the draft reads, side by side: i is the residual stream after i layers, 0
        the embedding.

        Empty: only the state that the target's head reads.
        """
        return ()

    @property
    def feature_width(self) -> int:
        """C, the width of the target's states side by side."""
        return self.target_width * max(1, len(self.captures))

    @property
    def own_vocab_size(self) -> int | None:
        """Number of tokens that a head of the draft's own scores; None without such a head."""
        return None

    def unroll_steps(self, loss: LossConfig) -> int:
        """Return the number of drafted positions that training unrolls from each start."""
        return loss.unroll_steps or self.default_unroll_steps

    def settled(self, train: TrainConfig) -> TrainConfig:
        """Fill in the settings whose defaults depend on the kind; a pack stores the result."""
        loss = train.loss.model_copy(update={"unroll_steps": self.unroll_steps(train.loss)})
        return train.model_copy(update={"loss": loss})

    def is_started(self, train: TrainConfig) -> bool:
        """Whether shards hold the draft's start states, which are narrower than the captured states they are made from.
        They may if training changes neither that part of the draft nor its inputs, so that both are equal in every
        epoch.
        """
        is_read_as_is = train.method is Method.EDA and not train.train_fc and train.loss.feature_noise == 0
        return bool(self.captures) and is_read_as_is

    def stored_width(self, train: TrainConfig) -> int:
        """Count the values that a shard holds per token: the draft's input, and the input of the target's head if that
        is another state.
        """
        features = self.hidden_size if self.is_started(train) else self.feature_width
        return features + (self.target_width if self.captures else 0)

    @property
    def embedding_size(self) -> int:
        """Number of parameters of the draft's own embedding, which no method trains; 0 without one."""
        return self.vocab_size * self.hidden_size * self.own_embedding

    @property
    def misreadings(self) -> tuple[dict[str, Any], ...]:
        """Changes of fields that repair likely misreadings of the draft's file. Each keeps every tensor's shape;
        rotation and embedding are not among them, because they are common to all kinds.
        """
        return ()

    @property
    @abstractmethod
    def sizes(self) -> PartSizes:
        """Numbers of parameters, without embedding and the target's head."""


class Eagle1Config(DraftConfig):
    """EAGLE-1: fc over embedding and last state, one layer without input norm, the target's head."""

    kind: Literal["eagle1"] = Field("eagle1", exclude=True)

    @property
    def sizes(self) -> PartSizes:
        """See `DraftConfig`."""
        d = self.hidden_size
        fuse = 2 * d * d + d * self.fc_bias
        return PartSizes(fuse=fuse, attention=attention_size(self, d), others=d + 3 * d * self.expert_width)


class Eagle3Config(DraftConfig):
    """EAGLE-3: fc over several of the target's layers, one layer over [embedding; state], a head of its own."""

    default_unroll_steps: ClassVar[int] = 3

    kind: Literal["eagle3"] = "eagle3"
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        description="target states that fc reads, as `captures` counts; none: the state that the target's head reads, "
        "and no fc"
    )
    draft_vocab_size: int = Field(ge=2, description="W, tokens that it scores")
    norm_before_residual: bool = Field(False, description="the residual is the normed state, not the state")
    norm_before_fc: bool = Field(False, description="one norm over all that fc reads, `input_norm`")
    fc_norm: Literal["none", "each", "joint"] = Field(
        "none", description="norms before fc: one a layer, or one for all"
    )
    norm_output: bool = Field(False, description="the state that is fed back is the normed one")
    has_hidden_norm: bool = Field(True, description="the state is normed before the attention")
    qk_norm: bool = Field(False, description="each query and key head is normed")
    own_head: bool = Field(True, description="it has rows of its own; no: the target's")
    logit_scale: float = Field(1.0, gt=0, description="factor of its own head's logits")

    @model_validator(mode="after")
    def _fits_together(self) -> Eagle3Config:
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers {list(self.layers)} are not ascending, each once")
        if not self.layers and (self.fc_bias or self.norm_before_fc or self.fc_norm != "none"):
            raise ValueError("norms and bias of fc need layers that fc reads")
        of_target = {"state": not self.layers, "embedding": not self.own_embedding, "head": not self.own_head}
        for name, is_targets in of_target.items():
            if is_targets and self.target_width != self.hidden_size:
                raise ValueError(
                    f"a draft of width {self.hidden_size} has no use for the target's {name} of width "
                    f"{self.target_width}; it needs one of its own"
                )
        if self.draft_vocab_size > self.vocab_size:
            raise ValueError(f"it scores {self.draft_vocab_size} tokens, the target has {self.vocab_size}")
        return self

    @property
    def captures(self) -> tuple[int, ...]:
        """See `DraftConfig`."""
        return self.layers

    @property
    def own_vocab_size(self) -> int | None:
        """See `DraftConfig`."""
        return self.draft_vocab_size if self.own_head else None

    @property
    def misreadings(self) -> tuple[dict[str, Any], ...]:
        """See `DraftConfig`: layers counted one off, and norms that no tensor reveals."""
        shifted = [tuple(layer + shift for layer in self.layers) for shift in (1, -1)]
        found: list[dict[str, Any]] = [{"layers": layers} for layers in shifted if layers and min(layers) >= 0]
        if self.has_hidden_norm:  # without hidden_norm the residual is the state in both cases
            found.append({"norm_before_residual": not self.norm_before_residual})
        return (*found, {"norm_output": not self.norm_output})

    @property
    def sizes(self) -> PartSizes:
        """See `DraftConfig`; its own head is counted, its own embedding is not."""
        d, fuse = self.hidden_size, 0
        if self.layers:
            norms = self.norm_before_fc + (self.fc_norm != "none")
            fuse = d * self.feature_width + d * self.fc_bias + self.feature_width * norms
        attention = attention_size(self, 2 * d) + 2 * self.head_dim * self.qk_norm
        head = d * self.draft_vocab_size * self.own_head
        return PartSizes(
            fuse=fuse, attention=attention, others=d * (3 + self.has_hidden_norm) + head + 3 * d * self.expert_width
        )


def attention_size(config: DraftConfig, width_in: int) -> int:
    """Count the parameters of an attention over inputs of this width, whose output has the draft's width."""
    outputs = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    size = width_in * outputs + config.num_heads * config.head_dim * config.hidden_size
    return size + outputs * config.qkv_bias + config.hidden_size * config.o_bias


CONFIGS: dict[str, type[DraftConfig]] = {"eagle1": Eagle1Config, "eagle3": Eagle3Config}


def _of_its_kind(value: Any) -> Any:
    """Turn a stored config into the class that its kind names."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind", "eagle1")
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise ValueError(f"kind {str(kind)[:32]!r} is none of {', '.join(sorted(CONFIGS))}")
    return CONFIGS[kind].model_validate(value)


AnyDraftConfig = Annotated[SerializeAsAny[DraftConfig], BeforeValidator(_of_its_kind)]
"""A config of any kind, as the type of a field."""

_STORED: TypeAdapter[DraftConfig] = TypeAdapter(AnyDraftConfig)


def parse_draft_config(stored: str | Mapping[str, Any]) -> DraftConfig:
    """Parse a stored config, given as JSON or as a mapping.

    Raises:
        ValueError: The text is no config, or is of a kind that this version does not know.
    """
    return _STORED.validate_json(stored) if isinstance(stored, str) else _STORED.validate_python(stored)


class PrivateConfig(Config):
    """The parts that an adaptation adds to or changes in the base draft."""

    private_width: int = Field(ge=1, description="m_p")
    mix: Mix = Mix.SOFTMAX

    @classmethod
    def of(cls, draft: DraftConfig, train: TrainConfig) -> PrivateConfig:
        """Return the parts that a job adds to this draft; a private expert has at least 8 inner units."""
        width = max(8, round(draft.expert_width * train.private_width_fraction))
        return cls(private_width=width, mix=train.mix)


def parameter_counts(
    config: DraftConfig, private: PrivateConfig | None, *, train_fc: bool, train_attention: bool = False
) -> tuple[int, int]:
    """Return (all parameters, trainable parameters) of a draft, without an embedding and a head that are the target's.

    Without `private` all parameters train except an embedding of its own. Checked against Table 4: d=3584, m=18944 with
    a half-width private expert.
    """
    d, sizes = config.hidden_size, config.sizes
    base = sizes.fuse + sizes.attention + sizes.others
    if private is None:
        return base + config.embedding_size, base
    added = 3 * d * private.private_width + (2 * d if private.mix is Mix.SOFTMAX else 0)
    trained = added + (sizes.fuse if train_fc else 0) + (sizes.attention if train_attention else 0)
    return base + config.embedding_size + added, trained
