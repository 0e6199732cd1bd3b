"""Settings that would change what a draft computes, and that our drafts do not have: refused unless neutral.

Imports no torch.
"""

from __future__ import annotations

from typing import Any

from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.dialects.settings import EAGLE, LAYER, Settings, shown

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": ("silu", "swish"),
    "mlp_bias": (False,),
    "is_causal": (True,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "logits_soft_cap": (),
    "attention_multiplier": (1, 1.0),
    "residual_multiplier": (1, 1.0),
    "embedding_multiplier": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "scale_emb": (1, 1.0),
    "partial_rotary_factor": (1, 1.0),
    "use_mtp_layernorm": (False,),
    "parallel_draft_step": (0, 1),
    "next_layer_regular": (True,),
    "use_parallel_drafting": (False,),
    "attention_sinks": (False,),
}
"""The values by key that change nothing; an absent key changes nothing either."""
_EAGLE3_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_last_layernorm": (True,),
    "use_input_layernorm_in_first_layer": (True,),
}
_EAGLE1_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_last_layernorm": (False,),
    "use_input_layernorm_in_first_layer": (False,),
    "logit_scale": (1, 1.0),
}


def require_same_computation(settings: Settings, kind: str) -> None:
    """Refuse a setting that a draft of this kind does not have.

    Raises:
        DraftIncompatibleError: The config has such a setting with a value that is not neutral.
    """
    more = _EAGLE1_NEUTRAL if kind == "eagle1" else _EAGLE3_NEUTRAL
    for name, neutral in {**_NEUTRAL, **more}.items():
        for group in (LAYER, "", EAGLE):
            key, value = settings.value(name, group)
            if key and not any(type(value) is type(each) and value == each for each in neutral):
                expected = " or ".join(map(repr, neutral)) or "no such key"
                raise refusal(
                    f"config.json: {key} is {shown(value)}, which changes what the draft computes; {expected} can be "
                    f"computed for a draft of kind {kind}: import a draft without it"
                )
    _require_whole_attention(settings)


def _require_whole_attention(settings: Settings) -> None:
    """Refuse a sliding window if the layer has one: by its type, or if windows are enabled and no types are given."""
    key, types = settings.value("layer_types")
    if types is not None:
        if not isinstance(types, list) or not types:
            raise refusal(f"config.json: {key} is {shown(types)}, a list with the layer's type is needed; correct it")
        if types[0] == "full_attention":
            settings.value("sliding_window")
            return
        window = settings.whole("sliding_window")
        raise refusal(
            f"config.json: the layer is of type {shown(types[0])} (window {window}), 'full_attention' can be computed; "
            "import a draft that attends to everything"
        )
    window, used = settings.whole("sliding_window"), settings.flag("use_sliding_window")
    positions = settings.whole("max_position_embeddings")
    if window is None or used is False or (positions is not None and window >= positions):
        return
    raise refusal(
        f"config.json: sliding_window is {window}, shorter than the draft's {positions} positions, and neither "
        "use_sliding_window nor layer_types says that the layer does not use it; set use_sliding_window to false if so"
    )
