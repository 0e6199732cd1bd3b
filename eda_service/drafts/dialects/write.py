"""Writing a draft's `config.json` and the names of its tensors in a dialect; the inverse of `read`.

A draft that was imported is written back from its record: every original key stays, except those that describe the
computation, which are written anew and completely. Layers are written under both keys, each counted as its readers
count; rotations as numbers, in the old and the new form. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eda_service.drafts.dialects import names
from eda_service.drafts.dialects.record import BaseTarget, Dialect, DialectRecord
from eda_service.drafts.dialects.settings import EAGLE, LAYER
from eda_service.drafts.draft_config import Eagle3Config
from eda_service.errors import TargetIncompatibleError

IDS = "eagle_aux_hidden_state_layer_ids"
_MIDLAYER = (Dialect.EAGLE3, Dialect.SPECFORGE, Dialect.ANGELSLIM)
_ARCHITECTURES = {
    Dialect.EAGLE3: "LlamaForCausalLM",
    Dialect.SPECFORGE: "LlamaForCausalLMEagle3",
    Dialect.ANGELSLIM: "Eagle3LlamaForCausalLM",
    Dialect.SPECULATORS: "Eagle3Speculator",
    Dialect.MODELOPT: "LlamaForCausalLMEagle3",
    Dialect.NEMO: "LlamaForCausalLMEagle3",
    Dialect.DEEPSPEC: "Qwen3Eagle3Model",
}


@dataclass(frozen=True)
class DialectForm:
    """The config and tensor names with which a draft's files are written.

    Attributes:
        config: The whole `config.json`.
        name: Function from a tensor's canonical name to its name in the file.
    """

    config: dict[str, Any]
    name: Callable[[str], str]


def dialect_form(
    config: Eagle3Config,
    dialect: Dialect,
    target: BaseTarget,
    *,
    dtype: str,
    target_model: str,
    record: DialectRecord | None = None,
    for_engine: bool = True,
) -> DialectForm:
    """Describe an EAGLE-3 draft in a dialect.

    Args:
        config: Config of the draft.
        dialect: Dialect to write.
        target: Base target that the draft is for.
        dtype: Dtype of the weights, as torch names it.
        target_model: Name of the target.
        record: Record of the imported files; used if they came in this dialect.
        for_engine: Whether SpecForge's `norm_output` is written with the meaning it has for engines, not for SpecForge.

    Raises:
        TargetIncompatibleError: The dialect cannot express what the draft computes.
    """
    _require_sayable(config, dialect)
    came = record if record is not None and record.dialect is dialect else None
    written: dict[str, Any] = {} if came is None else json.loads(came.config_text)
    layer = written.setdefault(LAYER, {}) if dialect is Dialect.SPECULATORS else written
    if came is None:
        written["architectures"] = [_ARCHITECTURES[dialect]]
        written["torch_dtype"] = dtype
    said = written.get("max_position_embeddings", layer.get("max_position_embeddings")) or 0
    positions = max(said, target.max_position_embeddings or 0)
    layer.update(_layer_settings(config, positions or 2048))
    layer["model_type"] = "qwen3" if config.qk_norm else "llama"
    flags = _flags(config, written)
    if dialect is Dialect.SPECFORGE and not for_engine:
        del flags["norm_output"]
    written.update(flags)
    _write_layers(config, dialect, written, layer)
    if dialect is Dialect.SPECULATORS:
        _fill_speculators(written, target_model)
    if dialect is Dialect.ANGELSLIM:
        written.setdefault("target_model_type", "llama")
    return DialectForm(written, _namer(dialect, came, for_engine=for_engine))


def _require_sayable(config: Eagle3Config, dialect: Dialect) -> None:
    problems = {
        "this draft feeds back its normed state, and norm_output says something else in SpecForge's files, which those "
        "of EAGLE without an embedding look like": config.norm_output
        and (dialect is Dialect.SPECFORGE or (dialect is Dialect.EAGLE3 and not config.own_embedding)),
        "DeepSpec has no norm for each state that fc reads": dialect is Dialect.DEEPSPEC and config.fc_norm == "each",
        "only DeepSpec has one norm over all that fc reads beside norm_before_fc": dialect is not Dialect.DEEPSPEC
        and config.fc_norm == "joint",
    }
    for problem, holds in problems.items():
        if holds:
            raise TargetIncompatibleError(f"{problem}; name another --dialect than {dialect}", param="dialect")


def _layer_settings(config: Eagle3Config, positions: int) -> dict[str, Any]:
    """Make the keys of transformers' Llama and Qwen3 configs."""
    scaling = None if config.rope_scaling is None else config.rope_scaling.model_dump(exclude_none=True)
    parameters = {"rope_type": "default"} if scaling is None else scaling
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.expert_width,
        "num_hidden_layers": 1,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {**parameters, "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "max_position_embeddings": positions,
        "attention_bias": config.qkv_bias,
        "bias": config.fc_bias,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    }


def _flags(config: Eagle3Config, written: dict[str, Any]) -> dict[str, Any]:
    fc_norm = config.fc_norm != "none"
    flags: dict[str, Any] = {
        "draft_vocab_size": config.draft_vocab_size,
        "target_hidden_size": config.target_width,
        "norm_before_residual": config.norm_before_residual,
        "norm_before_fc": config.norm_before_fc,
        "fc_norm": fc_norm,
        "norm_output": config.norm_output,
    }
    if "use_aux_norm" in written:
        flags["use_aux_norm"] = fc_norm
    return flags


def _write_layers(config: Eagle3Config, dialect: Dialect, written: dict[str, Any], layer: dict[str, Any]) -> None:
    """Write the layers that the draft reads, for every reader; of a file of the speculators library vLLM reads the
    layer's settings, the flags and the ids at the top level.
    """
    eagle = dict(written.get(EAGLE) or {})
    for stale in ("layer_ids", IDS, "return_hidden_post_norm", "norm_before_fc"):
        eagle.pop(stale, None)
    outputs = [each - 1 for each in config.layers]
    if config.layers:
        written[IDS] = list(config.layers)
        layer["num_aux_hidden_states"] = len(config.layers)
        if outputs[0] >= 0:  # the embedding is not the output of a layer
            eagle[IDS] = outputs
    else:
        written.pop(IDS, None)
        layer.pop("num_aux_hidden_states", None)
    written.pop("aux_hidden_state_layer_ids", None)
    if outputs and outputs[0] < 0:
        written.pop("target_layer_ids", None)
    elif dialect is Dialect.DEEPSPEC or "target_layer_ids" in written:
        written["target_layer_ids"] = outputs
    eagle |= {"use_aux_hidden_state": bool(config.layers), "norm_before_fc": config.norm_before_fc}
    if config.norm_output:
        eagle["return_hidden_post_norm"] = True
    written[EAGLE] = eagle
    if layer is not written:
        layer[EAGLE] = eagle
    layer["logit_scale"] = config.logit_scale
    if "num_aux_layers" in layer:
        layer["num_aux_layers"] = len(config.layers)


def _fill_speculators(written: dict[str, Any], target_model: str) -> None:
    """Fill in the keys that the speculators library and vLLM require."""
    written.setdefault("speculators_model_type", "eagle3")
    written.setdefault("speculators_version", "0.3.0")
    written.setdefault("embed_requires_grad", False)
    written.setdefault(
        "speculators_config",
        {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
            "verifier": {"name_or_path": target_model, "architectures": []},
        },
    )


def _namer(dialect: Dialect, came: DialectRecord | None, *, for_engine: bool) -> Callable[[str], str]:
    published = {} if came is None else {each.canonical: each.name for each in came.tensors if each.canonical}
    model = "model." if dialect is Dialect.NEMO else ""
    prefix = names.MIDLAYER if dialect in _MIDLAYER else names.LAYER
    if came is not None:
        model, prefix = came.model_prefix, came.layer_prefix

    def name(canonical: str) -> str:
        if canonical in published and not (for_engine and names.is_each_norm(canonical)):
            return published[canonical]  # except SGLang's own names of these norms, which vLLM does not know
        if canonical in (names.HEAD, names.D2T, names.T2D):
            return canonical
        rest = canonical.removeprefix(names.LAYER)
        return model + (canonical if rest == canonical else prefix + rest)

    return name
