"""What is kept of the files that a draft came in: enough to write them back as they were."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from eda_service.config.base import Config


class Dialect(StrEnum):
    """Who writes files like these. It never decides what is computed but in one case, `flags.feeds_back_normed`."""

    EAGLE1 = "eagle1"
    """The authors of EAGLE, vLLM and SGLang, for EAGLE-1."""
    EAGLE3 = "eagle3"
    """The authors of EAGLE, for EAGLE-3: `midlayer.`, with an embedding."""
    SPECFORGE = "specforge"
    """SpecForge and TorchSpec: `midlayer.`, no embedding."""
    ANGELSLIM = "angelslim"
    """`midlayer.` and `target_model_type`."""
    SPECULATORS = "speculators"
    """`layers.0.`, the layer's settings in `transformer_layer_config`."""
    MODELOPT = "modelopt"
    """`layers.0.`, settings in `eagle_config`, no `t2d`."""
    NEMO = "nemo"
    """`model.` in front of the names."""
    DEEPSPEC = "deepspec"
    """`layers.0.`, `target_layer_ids`, the whole vocabulary."""


class BaseTarget(Config):
    """What must be known of the base target, in whose terms a draft's files are written."""

    num_layers: int = Field(ge=1, description="N, its decoder layers")
    vocab_size: int = Field(ge=2, description="V, rows of its embedding")
    hidden_size: int = Field(ge=8, description="width of its states")
    rope_theta: float | None = Field(None, gt=0, description="base of its rotation; None: unknown, or more than one")
    max_position_embeddings: int | None = Field(None, ge=1, description="positions that it was made for; None: unknown")


class Assumption(Config):
    """A value that the files do not say, or say in more than one way."""

    field: str = Field(description="of the draft's config, or the file's key where the config has none")
    value: Any = Field(description="what was taken")
    why: str = Field(description="a sentence")


class PickledSource(Config):
    """The file that a safetensors file was converted from."""

    name: str
    size_bytes: int
    sha256: str


class SourceFile(Config):
    """One file of tensors.

    Attributes:
        header: Its JSON to the byte, so that the file can be written again.
    """

    name: str
    size_bytes: int
    sha256: str
    header: str
    pickled: PickledSource | None = None


class SourceTensor(Config):
    """One tensor as it was published.

    Attributes:
        canonical: Its name in `draft.safetensors`; None where the draft does not compute with it, so that it is in
            `dialect.safetensors` under its own name.
    """

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]
    canonical: str | None


class DialectRecord(Config):
    """`dialect.json` beside an imported draft.

    Attributes:
        model_prefix: What stands before every name but the head's.
        layer_prefix: What the layer is called.
        config_text: `config.json` as it was.
        unread_keys: Of `config.json`, dotted; none of them changes what the draft computes, as far as is known.
        unread_files: Weights beside those that were read.
        overrides: What the caller set, as it was written.
    """

    schema_version: Literal[1] = 1
    dialect: Dialect
    kind: str
    target: BaseTarget
    files: tuple[SourceFile, ...]
    tensors: tuple[SourceTensor, ...]
    model_prefix: Literal["", "model."]
    layer_prefix: Literal["layers.0.", "midlayer."]
    config_text: str
    unread_keys: tuple[str, ...] = ()
    unread_files: tuple[str, ...] = ()
    assumed: tuple[Assumption, ...] = ()
    overrides: dict[str, str] = Field(default_factory=dict)
