"""The tensors that a draft of a given config computes with, and the check that the files have them.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from eda_service.drafts.dialects import names
from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.draft_config import DraftConfig, Eagle3Config

Shape = tuple[int, ...]


def expected_shapes(config: DraftConfig) -> dict[str, Shape]:
    """Return the shape of every tensor of a base draft by canonical name, as its module's parameters have it."""
    eagle3 = config if isinstance(config, Eagle3Config) else None
    found = _layer(config, 2 * config.hidden_size if eagle3 else config.hidden_size)
    if eagle3:
        found |= _around(eagle3)
    else:
        found[names.FC] = (config.hidden_size, 2 * config.hidden_size)
    if config.fc_bias:
        found[names.FC_BIAS] = (config.hidden_size,)
    if config.own_embedding:
        found[names.EMBEDDING] = (config.vocab_size, config.hidden_size)
    return found


def _layer(config: DraftConfig, width_in: int) -> dict[str, Shape]:
    d, width, m = config.hidden_size, config.num_heads * config.head_dim, config.expert_width
    kv_width = config.num_kv_heads * config.head_dim
    outputs = {"q": width, "k": kv_width, "v": kv_width}
    found: dict[str, Shape] = {names.attention(each): (out, width_in) for each, out in outputs.items()}
    found[names.attention("o")] = (d, width)
    if config.qkv_bias:
        found |= {names.attention(each, "bias"): (out,) for each, out in outputs.items()}
    if config.o_bias:
        found[names.attention("o", "bias")] = (d,)
    found[names.FFN_NORM] = (d,)
    found |= {names.ffn(each): (m, d) for each in ("gate", "up")}
    found[names.ffn("down")] = (d, m)
    return found


def _around(config: Eagle3Config) -> dict[str, Shape]:
    d = config.hidden_size
    found: dict[str, Shape] = {names.LAYER_NORM: (d,), names.FINAL_NORM: (d,)}
    if config.layers:
        found[names.FC] = (d, config.feature_width)
    if config.norm_before_fc:
        found[names.INPUT_NORM] = (config.feature_width,)
    if config.fc_norm == "joint":
        found[names.JOINT_NORM] = (config.feature_width,)
    if config.fc_norm == "each":
        found |= {names.each_norm(index): (config.target_width,) for index in range(len(config.layers))}
    if config.has_hidden_norm:
        found[names.HIDDEN_NORM] = (d,)
    if config.qk_norm:
        found |= {names.head_norm(each): (config.head_dim,) for each in "qk"}
    if config.own_head:
        found[names.HEAD] = (config.draft_vocab_size, d)
    return found


def require_shapes(config: DraftConfig, shapes: Mapping[str, Shape], published: Mapping[str, str]) -> None:
    """Check that every tensor that the draft computes with exists in its shape.

    Args:
        config: Config of the draft.
        shapes: Shapes of the tensors in the files, by canonical name.
        published: Names of the same tensors in the files.

    Raises:
        DraftIncompatibleError: A tensor is missing or has another shape.
    """
    expected = expected_shapes(config)
    missing = [name for name in expected if name not in shapes]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        wanted = ", ".join(f"{name} {list(expected[name])}" for name in missing[:3])
        raise refusal(
            f"the file has no tensor {wanted}{more}, which a draft of kind {config.kind} with this config has; fetch "
            "the draft again, or --set the field that says so"
        )
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise refusal(
                f"{published[name]} has shape {list(shapes[name])}, {list(shape)} is needed by "
                f"{_because(config, name)}; correct config.json or --set the field, or import the draft for its own "
                "target"
            )


def _because(config: DraftConfig, name: str) -> str:
    """Return the sizes of the config that determine a tensor's shape."""
    part = name.removeprefix(names.LAYER)
    if part.startswith("self_attn."):
        return (
            f"hidden_size {config.hidden_size}, {config.num_heads} heads and {config.num_kv_heads} key/value heads of "
            f"width {config.head_dim}"
        )
    if part.startswith("mlp."):
        return f"hidden_size {config.hidden_size} and intermediate_size {config.expert_width}"
    if name == names.EMBEDDING:
        return f"the target's vocabulary of {config.vocab_size} and hidden_size {config.hidden_size}"
    if name == names.HEAD and isinstance(config, Eagle3Config):
        return f"draft_vocab_size {config.draft_vocab_size} and hidden_size {config.hidden_size}"
    if name in (names.FC, names.INPUT_NORM, names.JOINT_NORM) or names.is_each_norm(name):
        return (
            f"hidden_size {config.hidden_size} and {max(1, len(config.captures))} states of width {config.target_width}"
        )
    return f"hidden_size {config.hidden_size}"
