"""Refusal of drafts of other kinds, and of variants that compute something else, by their names. Imports no torch.

Each is recognised by its files, and the message names the evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from eda_service.drafts.dialects.names import LAYER as LAYER_0
from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.dialects.settings import EAGLE, LAYER, Settings, shown

_DFLASH_GROUP = "dflash_config"
_CANNOT = "drafts of kind EAGLE-1 and EAGLE-3 with one layer can be imported"
_BY_TYPE = {
    "peagle": "P-EAGLE",
    "dflash": "DFlash",
    "dflash2": "DFlash2",
    "dspark": "DSpark",
    "mtp": "MTP",
    "mlp": "an MLP speculator",
    "mlp_speculator": "an MLP speculator",
}
_BY_KEY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("DFlash2", ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k")),
    ("DSpark", ("markov_rank", "markov_head_type", "enable_confidence_head", "dspark_target_layer_ids")),
    ("DFlash", (_DFLASH_GROUP,)),
    ("P-EAGLE", ("pard_token", "mask_token_id")),
    ("Medusa", ("medusa_num_heads", "num_medusa_heads", "medusa_num_layers")),
    ("Hydra", ("hydra_num_heads", "hydra_num_layers")),
)
_BY_TENSOR: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("P-EAGLE", re.compile(r"(.*\.)?mask_hidden(\..*)?")),
    ("DSpark", re.compile(r"(.*\.)?(markov\w*|confidence_head)\..*")),
    ("ModelOpt's EAGLE with parallel heads", re.compile(r".*parallel_draft_heads\..*")),
    ("Medusa", re.compile(r"(.*medusa.*|\d+\.\d+\.(linear\.)?(weight|bias))")),
    ("Hydra", re.compile(r".*hydra.*")),
    ("MTP", re.compile(r"(mtp\..*|(.*\.)?(eh_proj|enorm|hnorm|pre_fc_norm_hidden|pre_fc_norm_embedding)\..*)")),
    ("an adapter (LoRA)", re.compile(r".*\.lora_[AB]\..*")),
    ("a draft with multi-head latent attention", re.compile(r".*\.(kv_a_proj_with_mqa|kv_b_proj|q_a_proj)\..*")),
    ("a draft with a mixture of experts", re.compile(r".*\.(experts\.|block_sparse_moe\.|mlp\.gate\.weight).*")),
)
_QUANTISED = re.compile(
    r".*(weight_scale(_inv|_2)?|input_scale|[kv]_scale|qweight|qzeros|scales|g_idx|weight_packed|weight_zero_point)"
)
_LAYERS = re.compile(r"(?:model\.)?layers\.(\d+)\..*")


def require_ours(names: Iterable[str], settings: Settings) -> None:
    """Refuse a draft that is known to be of no kind that is read here.

    Args:
        names: Names of all tensors in the files.
        settings: Settings of the draft's `config.json`.

    Raises:
        DraftIncompatibleError: The draft is of another kind; the message has its name and the evidence.
    """
    ordered = sorted(names)
    _by_config(settings)
    for kind, pattern in _BY_TENSOR:
        seen = next((name for name in ordered if pattern.fullmatch(name)), None)
        if seen is not None:
            raise _foreign(kind, f"the file has the tensor {seen[:96]}")
    _require_one_layer(ordered, settings)


def require_plain_weights(names: Iterable[str], settings: Settings) -> None:
    """Refuse a draft whose weights are quantised.

    Raises:
        DraftIncompatibleError: The weights are quantised.
    """
    key, value = settings.value("quantization_config")
    seen = next((name for name in sorted(names) if _QUANTISED.fullmatch(name)), None)
    if value or seen:
        what = f"config.json has {key}" if value else f"the file has the tensor {str(seen)[:96]}"
        raise refusal(
            f"the draft is quantised ({what}): it would be trained and handed back in another precision than it was "
            "made in; import the draft from before it was quantised"
        )


def _by_config(settings: Settings) -> None:
    said = settings.word("speculators_model_type", "")
    if said in _BY_TYPE:
        raise _foreign(_BY_TYPE[said], f"config.json has speculators_model_type {said!r}")
    if settings.word("model_type", LAYER, "") == "mlp_speculator":
        raise _foreign("an MLP speculator", "config.json has model_type 'mlp_speculator'")
    places: tuple[tuple[str, Mapping[str, Any]], ...] = tuple(
        (group, value)
        for group in ("", LAYER, EAGLE, _DFLASH_GROUP)
        if isinstance(value := settings.config if not group else settings.config.get(group), Mapping)
    )
    for kind, keys in _BY_KEY:
        for group, value in places:
            key = next((each for each in keys if value.get(each) not in (None, False)), None)
            if key is not None:
                dotted = f"{group}.{key}" if group else key
                raise _foreign(kind, f"config.json has {dotted} = {shown(value[key])}")


def _require_one_layer(names: list[str], settings: Settings) -> None:
    layers = sorted({int(found[1]) for name in names if (found := _LAYERS.fullmatch(name))})
    said = settings.whole("num_hidden_layers")
    if len(layers) > 1:
        raise _foreign(
            f"a draft or a model of {len(layers)} layers",
            f"the file has tensors of layers {', '.join(map(str, layers[:3]))}{', ...' if len(layers) > 3 else ''}",
        )
    if said is not None and said != 1:
        raise refusal(
            f"config.json: num_hidden_layers is {said}, the file has tensors of one layer; {_CANNOT}: correct it to 1 "
            "if the draft has one"
        )
    if layers not in ([], [0]):
        raise refusal(
            f"the only layer in the file is called layers.{layers[0]}, {LAYER_0[:-1]} is needed; rename its tensors"
        )


def _foreign(kind: str, seen: str) -> Exception:
    return refusal(f"this is {kind}, not an EAGLE draft that is read here ({seen}); {_CANNOT}")
