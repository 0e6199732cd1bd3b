"""What cannot be read is refused by its name, with what was seen in the file, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dialect_files import (
    TARGET,
    Tensors,
    Write,
    d2t,
    deepspec,
    modelopt,
    official,
    official_eagle1,
    put,
    tensors_of,
)

from eda_service.drafts.dialects.read import read_source
from eda_service.errors import DraftIncompatibleError, InputError

Change = Callable[[Tensors], Tensors]
Config = dict[str, Any]
TOP, NESTED = "eagle_aux_hidden_state_layer_ids", "eagle_config.eagle_aux_hidden_state_layer_ids"


def added(*names: str, shape: tuple[int, ...] = (4,), dtype: torch.dtype = torch.bfloat16) -> Change:
    return lambda tensors: {**tensors, **{name: torch.zeros(shape, dtype=dtype) for name in names}}


def without(*names: str) -> Change:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


def as_it_is(tensors: Tensors) -> Tensors:
    return tensors


def two_layers(tensors: Tensors) -> Tensors:
    more = {
        name.replace("midlayer.", "layers.1."): each.clone() for name, each in tensors.items() if "midlayer." in name
    }
    return {name.replace("midlayer.", "layers.0."): each for name, each in tensors.items()} | more


FOREIGN: list[tuple[str, Config, Change]] = [
    ("P-EAGLE", {}, added("mask_hidden", shape=(1, 96))),
    ("P-EAGLE", {"mask_token_id": 63}, as_it_is),
    ("P-EAGLE", {"speculators_model_type": "peagle"}, as_it_is),
    ("DFlash,", {"dflash_config": {"mask_token_id": 3, "target_layer_ids": [1]}}, as_it_is),
    ("DFlash,", {"speculators_model_type": "dflash"}, as_it_is),
    ("DFlash2", {"dflash_config": {"conv_kernel_size": 3}}, as_it_is),
    ("DFlash2", {"selector_rank": 8}, as_it_is),
    ("DSpark", {"dflash_config": {}, "markov_rank": 256}, as_it_is),
    ("DSpark", {}, added("confidence_head.weight")),
    ("MTP", {}, added("mtp.fc.weight")),
    ("MTP", {}, added("model.layers.61.eh_proj.weight")),
    ("Medusa", {}, added("medusa_head.0.0.linear.weight")),
    ("Medusa", {}, added("0.0.linear.weight")),
    ("Medusa", {"medusa_num_heads": 3}, as_it_is),
    ("Hydra", {"hydra_num_heads": 3}, as_it_is),
    ("Hydra", {}, added("hydra_head.0.weight")),
    ("an MLP speculator", {"model_type": "mlp_speculator"}, as_it_is),
    ("ModelOpt's EAGLE with parallel heads", {}, added("parallel_draft_heads.0.medusa_layers.0.linear.weight")),
    ("multi-head latent attention", {}, added("midlayer.self_attn.kv_a_proj_with_mqa.weight")),
    ("a mixture of experts", {}, added("midlayer.mlp.experts.0.up_proj.weight")),
    ("an adapter (LoRA)", {}, added("base_model.model.fc.lora_A.weight")),
    ("a draft or a model of 2 layers", {"num_hidden_layers": 2}, two_layers),
]


@pytest.mark.parametrize(("name", "config", "change"), FOREIGN)
def test_other_kinds_are_refused_by_their_names(tmp_path: Path, name: str, config: Config, change: Change) -> None:
    path = put(tmp_path, official, tensors_of(embedding=True), config=config, change=change)
    with pytest.raises(DraftIncompatibleError) as caught:
        read_source(path, TARGET)
    assert f"this is {name}" in caught.value.message or f"this is a draft with {name}" in caught.value.message
    seen = [*config, *(set(change({"midlayer.mlp.x": torch.ones(1)})) - {"midlayer.mlp.x"})]
    assert any(each.split(".")[0] in caught.value.message for each in seen), "it says what was seen"
    assert (caught.value.param, caught.value.code) == ("source", "draft_incompatible")


def nan(name: str, at: tuple[int, ...], value: float = float("nan")) -> Change:
    def change(tensors: Tensors) -> Tensors:
        tensors[name][at] = value
        return tensors

    return change


def shaped(name: str, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Change:
    return lambda tensors: {**tensors, name: torch.zeros(shape, dtype=dtype)}


def mapped(change: Callable[[torch.Tensor], torch.Tensor], name: str = "d2t") -> Change:
    return lambda tensors: {**tensors, name: change(tensors[name])}


def same(ids: torch.Tensor) -> torch.Tensor:
    """Row 5 becomes the token of row 4."""
    ids[5] = ids[4] - 1
    return ids


def absolute(ids: torch.Tensor) -> torch.Tensor:
    return ids + torch.arange(len(ids))


Q = "midlayer.self_attn.q_proj.weight"
BAD: list[tuple[str, Config, Change]] = [
    # tensors
    ("no tensor fc.weight [32, 96]|fc.weight has shape", {TOP: [2, 4, 5]}, shaped("fc.weight", 32, 95)),
    ("use_aux_hidden_state is true", {"eagle_config.use_aux_hidden_state": True}, without("fc.weight")),
    ("use_aux_hidden_state is false", {"eagle_config.use_aux_hidden_state": False}, as_it_is),
    ("no tensor layers.0.mlp.up_proj.weight [48, 32]", {}, without("midlayer.mlp.up_proj.weight")),
    ("no tensor norm.weight [32]", {}, without("norm.weight")),
    ("no tensor layers.0.hidden_norm.weight [32]", {}, without("midlayer.hidden_norm.weight")),
    ("no layers.0.self_attn.q_proj.weight", {}, without(Q)),
    ("and fc.weight [32, 96]", {}, shaped(Q, 32, 48)),
    ("midlayer.mlp.down_proj.weight has shape [32, 50], [32, 48]", {}, shaped("midlayer.mlp.down_proj.weight", 32, 50)),
    (f"{Q} has shape [40, 64], [32, 64]", {"head_dim": 8}, shaped(Q, 40, 64)),
    ("lm_head.weight has shape [24, 32], [23, 32]", {"draft_vocab_size": 23}, as_it_is),
    ("embed_tokens.weight has shape [63, 32], [64, 32]", {}, shaped("embed_tokens.weight", 63, 32)),
    ("mystery.weight [4]", {}, added("mystery.weight")),
    ("midlayer.mlp.up_proj.bias [4]", {}, added("midlayer.mlp.up_proj.bias")),
    ("extra_norm.weight [4]", {}, added("midlayer.extra_norm.weight")),
    ("midlayer.fc.weight and|are both fc.weight", {}, added("model.fc.weight")),
    ("norm.weight is of dtype I64", {}, shaped("norm.weight", 32, dtype=torch.int64)),
    ("norm.weight is of dtype F64", {}, shaped("norm.weight", 32, dtype=torch.float64)),
    ("fc.weight is of dtype F8_E4M3", {}, shaped("fc.weight", 32, 96, dtype=torch.float8_e4m3fn)),
    ("holds NaN or infinity at [3, 7]", {}, nan("fc.weight", (3, 7))),
    ("holds NaN or infinity at [31]", {}, nan("norm.weight", (31,), float("inf"))),
    ("holds NaN or infinity at [0, 0]", {}, nan("lm_head.weight", (0, 0), float("-inf"))),
    # quantised
    ("quantised (config.json has quantization_config)", {"quantization_config": {"quant_method": "fp8"}}, as_it_is),
    ("quantised (the file has the tensor fc.weight_scale)", {}, added("fc.weight_scale")),
    # vocabulary
    ("d2t[23] is", {}, mapped(lambda ids: ids + (torch.arange(24) == 23) * 64)),
    ("outside the target's 64", {}, mapped(lambda ids: ids - (torch.arange(24) == 0) * 64)),
    ("engines read differences", {}, lambda tensors: without("t2d")(mapped(absolute)(tensors))),
    ("maps rows 4 and 5 to one token", {}, mapped(same)),
    ("which t2d does not mark", {}, mapped(lambda marks: marks.roll(1), "t2d")),
    ("t2d marks 64 tokens, the head has 24 rows", {}, mapped(torch.ones_like, "t2d")),
    ("neither d2t nor t2d", {}, without("d2t", "t2d")),
    ("d2t is F32 [24]", {}, mapped(torch.Tensor.float)),
    ("d2t is I64 [23]", {}, mapped(lambda ids: ids[:-1])),
    ("t2d is BOOL [63]", {}, mapped(lambda marks: marks[:-1].clone(), "t2d")),
    (
        "t2d marks 23 tokens",
        {},
        lambda tensors: without("d2t")(nan("t2d", (int(tensors["t2d"].nonzero()[0]),), 0)(tensors)),
    ),
    # another target
    ("vocab_size is 65, the target has 64", {"vocab_size": 65}, as_it_is),
    ("target_hidden_size is 48, the target's states are 32", {"target_hidden_size": 48}, as_it_is),
    ("num_target_layers is 9, the target has 8", {"num_target_layers": 9}, as_it_is),
    # layers
    ("the target has 8", {TOP: [2, 4, 9]}, as_it_is),
    ("the target has 8", {NESTED: [1, 3, 9]}, as_it_is),
    ("ascending numbers are needed", {TOP: [4, 2, 5]}, as_it_is),
    ("ascending numbers are needed", {TOP: [2, 4, 4]}, as_it_is),
    ("the target has 8", {TOP: [-1, 4, 5]}, as_it_is),
    ("names 2 layers, fc.weight reads 3", {TOP: [2, 4]}, as_it_is),
    ("names no layers, fc.weight reads 2", {}, shaped("fc.weight", 32, 64)),
    ("num_aux_hidden_states is 5", {"num_aux_hidden_states": 5}, as_it_is),
    ("a list of layer numbers", {TOP: [2, 4, "5"]}, as_it_is),
    # flags
    ("norm_before_fc is true, and the file does not have input_norm.weight", {"norm_before_fc": True}, as_it_is),
    ("norm_before_fc is false, and the file has", {"norm_before_fc": False}, added("input_norm.weight", shape=(96,))),
    ("fc_norm is true, and the file has neither", {"fc_norm": True}, as_it_is),
    ("fc_norm is false, and the file has its norms", {"fc_norm": False}, added("fc_norm.weight", shape=(96,))),
    ("one norm over all states", {}, added("fc_norm.weight", "fc_norm.0.weight", shape=(96,))),
    ("no tensor fc_norm.1.weight [32], fc_norm.2.weight [32]", {}, added("fc_norm.0.weight", shape=(32,))),
    ("fc_norm.3.weight [32]", {}, added(*(f"fc_norm.{index}.weight" for index in range(4)), shape=(32,))),
    ("no tensor layers.0.self_attn.k_norm.weight [8]", {}, added("midlayer.self_attn.q_norm.weight", shape=(8,))),
    ("there is a q_proj.bias", {"attention_bias": True}, as_it_is),
    ("there is a fc.bias", {"bias": True}, as_it_is),
    ("no tensor layers.0.self_attn.k_proj.bias", {}, added("midlayer.self_attn.q_proj.bias", shape=(32,))),
    # what changes the computation
    ("use_last_layernorm is False", {"eagle_config.use_last_layernorm": False}, as_it_is),
    (
        "use_input_layernorm_in_first_layer is False",
        {"eagle_config.use_input_layernorm_in_first_layer": False},
        as_it_is,
    ),
    ("parallel_draft_step is 4", {"eagle_config.parallel_draft_step": 4}, as_it_is),
    ("use_mtp_layernorm is True", {"eagle_config.use_mtp_layernorm": True}, as_it_is),
    ("hidden_act is 'gelu'", {"hidden_act": "gelu"}, as_it_is),
    ("mlp_bias is True", {"mlp_bias": True}, as_it_is),
    ("final_logit_softcapping is 30.0", {"final_logit_softcapping": 30.0}, as_it_is),
    ("attn_logit_softcapping is 50.0", {"attn_logit_softcapping": 50.0}, as_it_is),
    ("residual_multiplier is 0.2", {"residual_multiplier": 0.2}, as_it_is),
    ("type 'sliding_attention' (window 128)", {"layer_types": ["sliding_attention"], "sliding_window": 128}, as_it_is),
    ("sliding_window is 128", {"sliding_window": 128}, as_it_is),
    ("is_causal is False", {"is_causal": False}, as_it_is),
    ("rope_scaling has type 'longrope'", {"rope_scaling": {"type": "longrope", "factor": 2}}, as_it_is),
    ("rope_scaling has type 'dynamic'", {"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, as_it_is),
    ("rope type llama3 needs", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, as_it_is),
    ("rope_scaling.factor", {"rope_scaling": {"rope_type": "yarn"}}, as_it_is),
    ("mrope_section", {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 1]}}, as_it_is),
    ("mrope_section", {"rope_scaling": {"type": "yarn", "factor": 2, "mrope_section": [1, 1, 2]}}, as_it_is),
    ("partial_rotary_factor is 0.5", {"partial_rotary_factor": 0.5}, as_it_is),
    ("partial_rotary_factor is 0.5", {"rope_parameters": {"partial_rotary_factor": 0.5}}, as_it_is),
    ("rope_type 'linear' and type 'yarn'", {"rope_scaling": {"rope_type": "linear", "type": "yarn"}}, as_it_is),
    (
        "leave the one that the draft was trained with",
        {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_type": "linear", "factor": 4}},
        as_it_is,
    ),
    ("a rotation for each kind of layer", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, as_it_is),
    ("tie_word_embeddings is true", {"tie_word_embeddings": True}, without("lm_head.weight")),
    ("logit_scale is 2", {"logit_scale": 2.0}, without("lm_head.weight")),
    # settings that are none
    ("num_attention_heads", {"num_attention_heads": ...}, as_it_is),
    ("hidden_size is 32.0", {"hidden_size": 32.0}, as_it_is),
    ("hidden_size is 40", {"hidden_size": 40}, as_it_is),
    ("hidden_size is '32'", {"hidden_size": "32"}, as_it_is),
    ("num_hidden_layers is 2, the file has tensors of one layer", {"num_hidden_layers": 2}, as_it_is),
    ("rope_theta is -1", {"rope_theta": -1}, as_it_is),
    ("rms_norm_eps is 0", {"rms_norm_eps": 0}, as_it_is),
    ("eagle_config is [1]", {"eagle_config": [1]}, as_it_is),
    ("norm_output is 'yes'", {"norm_output": "yes"}, as_it_is),
]


@pytest.mark.parametrize(("message", "config", "change"), BAD)
def test_what_does_not_fit_is_refused_with_what_was_found(
    tmp_path: Path, message: str, config: Config, change: Change
) -> None:
    path = put(tmp_path, official, tensors_of(embedding=True), config=config, change=change)
    with pytest.raises(DraftIncompatibleError) as caught:
        read_source(path, TARGET)
    if message.startswith("hidden_size is 40"):
        message = "hidden_size 40"
    assert any(each in caught.value.message for each in message.split("|")), caught.value.message
    assert any(
        step in caught.value.message
        for step in ("import", "fetch", "correct", "leave", "save", "--set", "set ", "subtract")
    )


EAGLE1_BAD: list[tuple[str, Config, Change]] = [
    ("NeMo AutoModel and HASS", {}, added("layers.0.input_layernorm.weight", "norm.weight", shape=(32,))),
    ("does not compute with", {}, added("lm_head.weight", shape=(64, 32))),
    ("embed_layernorm.weight", {}, added("embed_layernorm.weight", shape=(32,))),
    ("logit_scale is 0.5", {"logit_scale": 0.5}, as_it_is),
    ("there is a fc.bias", {"bias": True}, as_it_is),
    ("there is a q_proj.bias", {"qkv_bias": True}, as_it_is),
    ("target_hidden_size is 48", {"target_hidden_size": 48}, as_it_is),
    ("draft_vocab_size is 24", {"draft_vocab_size": 24}, as_it_is),
    ("this is neither", {}, shaped("fc.weight", 32, 96)),
]


@pytest.mark.parametrize(("message", "config", "change"), EAGLE1_BAD)
def test_eagle1_that_does_not_fit(tmp_path: Path, message: str, config: Config, change: Change) -> None:
    path = put(tmp_path, official_eagle1, tensors_of("eagle1"), config=config, change=change)
    with pytest.raises(DraftIncompatibleError, match=message.replace("[", r"\[")):
        read_source(path, TARGET)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"norm_befor_fc": "true"}, "did you mean norm_before_fc"),
        ({"kind": "eagle1"}, "kind cannot be set"),
        ({"vocab_size": "65"}, "vocab_size cannot be set"),
        ({"target_hidden_size": "16"}, "target_hidden_size cannot be set"),
        ({"norm_output": "maybe"}, "norm_output is text; it must be true or false"),
        ({"rope_theta": "-3"}, "rope_theta is -3; it must be above 0"),
        ({"layers": "[2, 4, -5]"}, "layers is"),
        ({"rope_scaling": '{"rope_type": "longrope", "factor": 2}'}, "rope_scaling is"),
    ],
)
def test_overrides_that_fit_no_field(tmp_path: Path, overrides: dict[str, str], message: str) -> None:
    path = put(tmp_path, official, tensors_of(embedding=True))
    with pytest.raises(InputError, match=message.replace("[", r"\[")) as caught:
        read_source(path, TARGET, overrides=overrides)
    assert caught.value.param == f"set.{next(iter(overrides))}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"layers": "[4, 2, 5]"}, "not ascending"),
        ({"layers": "[2, 4]"}, r"fc.weight has shape \[32, 96\], \[32, 64\]"),
        ({"layers": "[2, 4, 9]"}, "the target has 8"),
        ({"own_embedding": "true"}, "no tensor embed_tokens.weight"),
        ({"head_dim": "16"}, "width 16"),
    ],
)
def test_overrides_that_the_tensors_contradict(tmp_path: Path, overrides: dict[str, str], message: str) -> None:
    path = put(tmp_path, official, tensors_of())
    with pytest.raises(DraftIncompatibleError, match=message):
        read_source(path, TARGET, overrides=overrides)


@pytest.mark.parametrize(
    ("overrides", "config", "change", "write"),
    [
        ({"layers": "[3, 6]"}, {}, shaped("fc.weight", 32, 64), official),
        ({"rope_scaling": "null"}, {"rope_scaling": {"type": "longrope"}}, as_it_is, official),
        ({"fc_bias": "false"}, {"bias": True}, as_it_is, official_eagle1),
        ({"own_head": "false"}, {"tie_word_embeddings": True}, without("lm_head.weight"), official),
        ({"norm_before_fc": "true"}, {"norm_before_fc": False}, added("input_norm.weight", shape=(96,)), modelopt),
        ({"num_heads": "4"}, {"num_attention_heads": ...}, as_it_is, official),
    ],
)
def test_what_is_refused_for_want_of_a_field_is_read_with_it(
    tmp_path: Path, overrides: dict[str, str], config: Config, change: Change, write: Write
) -> None:
    tensors = tensors_of("eagle1" if write is official_eagle1 else "eagle3", embedding=True)
    path = put(tmp_path, write, tensors, config=config, change=change)
    with pytest.raises(DraftIncompatibleError):
        read_source(path, TARGET)
    assert read_source(path, TARGET, overrides=overrides).record.overrides == overrides


def test_the_draft_of_another_target_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path, deepspec, tensors_of(states=5, rows=64, embedding=True), config={"fc_norm": ...})
    for change in ({"hidden_size": 48}, {"vocab_size": 80}, {"num_layers": 6}):
        with pytest.raises(DraftIncompatibleError):
            read_source(path, TARGET.model_copy(update=change))
    assert read_source(path, TARGET).vocab_W is None
    assert d2t().shape == (24,)
