"""Names of tensors: in published files, and the canonical names used here. Imports no torch."""

from __future__ import annotations

import re

D2T, T2D = "d2t", "t2d"
LAYER, MIDLAYER = "layers.0.", "midlayer."
MODEL = "model."
VOCABULARY = "draft_vocab"
"""Name, in files of drafts and packs that are stored here, of the token ids that are scored, int32."""
EMBEDDING, HEAD, FINAL_NORM = "embed_tokens.weight", "lm_head.weight", "norm.weight"
FC, FC_BIAS = "fc.weight", "fc.bias"
INPUT_NORM, JOINT_NORM = "input_norm.weight", "fc_norm.weight"
HIDDEN_NORM = f"{LAYER}hidden_norm.weight"
LAYER_NORM = f"{LAYER}input_layernorm.weight"
FFN_NORM = f"{LAYER}post_attention_layernorm.weight"
_ALIASES = {"aux_norm_low.weight": "fc_norm.0.weight"} | {
    "aux_norm_mid.weight": "fc_norm.1.weight",
    "aux_norm_high.weight": "fc_norm.2.weight",
}
"""SGLang's names of the norms before fc."""
_BUFFER = re.compile(r"(.*\.)?rotary_emb\.(inv_freq|cos_cached|sin_cached)")
_EACH_NORM = re.compile(r"fc_norm\.(0|[1-9]\d?)\.weight")


def attention(projection: str, part: str = "weight") -> str:
    """Return the canonical name of an attention projection's tensor."""
    return f"{LAYER}self_attn.{projection}_proj.{part}"


def head_norm(projection: str) -> str:
    """Return the canonical name of the norm of each query or key head."""
    return f"{LAYER}self_attn.{projection}_norm.weight"


def ffn(projection: str) -> str:
    """Return the canonical name of a feed-forward projection's tensor."""
    return f"{LAYER}mlp.{projection}_proj.weight"


def each_norm(index: int) -> str:
    """Return the canonical name of the norm of one state that fc reads."""
    return f"fc_norm.{index}.weight"


def is_each_norm(name: str) -> bool:
    """Whether a name is that of the norm of one state that fc reads."""
    return _EACH_NORM.fullmatch(name) is not None


def is_buffer(name: str) -> bool:
    """Whether a tensor is a table of the rotation, which old versions of transformers saved and nobody reads."""
    return _BUFFER.fullmatch(name) is not None


def canonical_name(name: str) -> str:
    """Return the canonical name of a file's tensor; an unknown name is kept without its prefixes."""
    rest = name.removeprefix(MODEL)
    if rest.startswith(MIDLAYER):
        rest = LAYER + rest.removeprefix(MIDLAYER)
    return _ALIASES.get(rest, rest)


KNOWN = frozenset(
    {EMBEDDING, HEAD, FINAL_NORM, FC, FC_BIAS, INPUT_NORM, JOINT_NORM, HIDDEN_NORM, LAYER_NORM, FFN_NORM}
    | {attention(each, part) for each in "qkvo" for part in ("weight", "bias")}
    | {head_norm(each) for each in "qk"}
    | {ffn(each) for each in ("gate", "up", "down")}
)
"""Every tensor that a draft of ours may compute with, except the norms of single states."""
