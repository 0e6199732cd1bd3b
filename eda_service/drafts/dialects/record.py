"""The record of the files that a draft came in: enough to write them back unchanged."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from eda_service.config.base import Config


class Dialect(StrEnum):
    """A dialect, named by the tool that writes it. It decides a computation only in `flags.feeds_back_normed`."""

    EAGLE1 = "eagle1"
    """EAGLE-1 files of the authors of EAGLE, vLLM and SGLang."""
    EAGLE3 = "eagle3"
    """EAGLE-3 files of the authors of EAGLE: `midlayer.`, with an embedding."""
    SPECFORGE = "specforge"
    """Files of SpecForge and TorchSpec: `midlayer.`, no embedding."""
    ANGELSLIM = "angelslim"
    """Files of AngelSlim: `midlayer.` and `target_model_type`."""
    SPECULATORS = "speculators"
    """Files of speculators: `layers.0.`, the layer's settings in `transformer_layer_config`."""
    MODELOPT = "modelopt"
    """Files of ModelOpt: `layers.0.`, settings in `eagle_config`, no `t2d`."""
    NEMO = "nemo"
    """Files of NeMo: `model.` in front of the names."""
    DEEPSPEC = "deepspec"
    """Files of DeepSpec: `layers.0.`, `target_layer_ids`, the whole vocabulary."""


class BaseTarget(Config):
    """Sizes and settings of the base target that are needed to read a draft's files."""

    num_layers: int = Field(ge=1, description="N, its decoder layers")
    vocab_size: int = Field(ge=2, description="V, rows of its embedding")
    hidden_size: int = Field(ge=8, description="width of its states")
    rope_theta: float | None = Field(None, gt=0, description="base of its rotation; None: unknown, or more than one")
    max_position_embeddings: int | None = Field(None, ge=1, description="positions that it was made for; None: unknown")


class Assumption(Config):
    """A value that the files leave out or state in more than one way."""

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
        header: JSON of the file's header to the byte, so that the file can be written again.
    """

    name: str
    size_bytes: int
    sha256: str
    header: str
    pickled: PickledSource | None = None


class SourceTensor(Config):
    """One tensor as it was published.

    Attributes:
        canonical: Name in `draft.safetensors`; None if the draft does not compute with the tensor, which is then in
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
        model_prefix: Prefix of every tensor name except those of the head.
        layer_prefix: Prefix of the layer's tensors.
        config_text: `config.json` as published.
        unread_keys: Dotted keys of `config.json` that were not read; as far as is known, none changes the computation.
        unread_files: Files of weights that were not read.
        overrides: Fields that the caller set, as text.
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
