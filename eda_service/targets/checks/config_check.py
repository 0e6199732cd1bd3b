"""The check of a model's `config.json` before anything is built from it: sizes within bounds, and words of the right
kind. Imports no torch.

The sizes decide how many modules a library makes from the file; nothing here depends on a family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eda_service.errors import TargetIncompatibleError

_PARAM = "target.model"
MAX_SIZES = {
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 20,
    "moe_intermediate_size": 1 << 20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 1 << 14,
    "vocab_size": 1 << 22,
    "num_experts": 1 << 14,
    "num_local_experts": 1 << 14,
    "n_routed_experts": 1 << 14,
    "max_position_embeddings": 1 << 31,
}
"""The largest accepted value of each size; published models stay far below."""
_NEEDED = frozenset(
    {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"}
)
EPSILONS = (*("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon"),)
"""Names of the epsilon of the norms, in different families."""
_CAUSAL = "ForCausalLM"
_SEES = ("vision_config", "audio_config")


def check_settings(config: Mapping[str, Any], model_dir: Path) -> None:
    """Check the settings that every decoder-only model has.

    Raises:
        TargetIncompatibleError: A size is not a whole number within its bounds, or the model is of another kind.
    """
    for name, limit in MAX_SIZES.items():
        value = config.get(name)
        if value is None or isinstance(value, list):  # one for each layer in some families
            continue
        least = 1 if name in _NEEDED else 0
        if type(value) is not int or not least <= value <= limit:
            raise _wrong(model_dir, f"{name} is {str(value)[:32]}, a whole number from {least} to {limit} is needed")
    architectures = config.get("architectures")
    names = [] if architectures is None else architectures
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _wrong(model_dir, f"architectures is {str(architectures)[:64]}, a list of names is needed")
    if names and not any(name.endswith(_CAUSAL) for name in names):
        shown = ", ".join(name[:64] for name in names[:4])
        sees = next((name for name in _SEES if name in config), None)
        advice = f"; its text model alone, saved as a model of its own, may be one ({sees} is set)" if sees else ""
        raise TargetIncompatibleError(
            f"{model_dir} holds {shown}; a decoder-only ...{_CAUSAL} model is needed{advice}", param=_PARAM
        )
    _check_kinds(config, model_dir)


def _check_kinds(config: Mapping[str, Any], model_dir: Path) -> None:
    if config.get("is_encoder_decoder") is True:
        raise _wrong(model_dir, "is_encoder_decoder is true, a decoder-only model is needed")
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise _wrong(model_dir, f"model_type is {str(kind)[:32]}, the name of a family is needed")
    file = config.get("transformers_weights")
    if file is not None:
        raise _wrong(model_dir, f"transformers_weights names {str(file)[:64]!r} instead of model.safetensors")


def require_drivable(config: Mapping[str, Any], model_dir: Path) -> None:
    """Check what this project's own engine needs in addition: weights that are plain numbers, heads in equal groups.

    Raises:
        TargetIncompatibleError: The weights are quantised, or the config contradicts itself.
    """
    layers, types = config.get("num_hidden_layers"), config.get("layer_types")
    if isinstance(types, list) and type(layers) is int and len(types) != layers:
        raise _wrong(model_dir, f"layer_types has {len(types)} entries for {layers} layers")
    heads, kv_heads = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if type(heads) is int and type(kv_heads) is int and heads % kv_heads:
        raise _wrong(model_dir, f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
    _check_numbers(config, model_dir)
    found = config.get("quantization_config")
    if found is None:
        found = config.get("compression_config")
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, Mapping) else None
    if method == "mxfp4":  # transformers unpacks it if it has no kernels for it
        return
    raise TargetIncompatibleError(
        f"{model_dir} is quantised ({str(method or found)[:48]}): this engine adapts and serves models whose weights "
        "are plain numbers (bfloat16, float16, float32); name the unquantised model or save it de-quantised, or let "
        "vLLM run this one (target.engine=vllm for a job, engine vllm for a deployment)",
        param=_PARAM,
    )


def _check_numbers(config: Mapping[str, Any], model_dir: Path) -> None:
    """Check numbers that are not finite or would make others not finite."""
    rope = config.get("rope_parameters")
    ropes = [rope, *rope.values()] if isinstance(rope, Mapping) else []
    bases = [each["rope_theta"] for each in ropes if isinstance(each, Mapping) and "rope_theta" in each]
    found = [("rope_theta", value) for value in (config.get("rope_theta"), *bases)]
    found += [(name, config.get(name)) for name in config if name in EPSILONS]
    for name, value in found:
        if isinstance(value, int | float) and not 0 < value < math.inf:
            raise _wrong(model_dir, f"{name} is {value}, a finite number above 0 is needed")
    window = config.get("sliding_window")
    if type(window) is int and window < 1 and config.get("use_sliding_window") is not False:
        raise _wrong(model_dir, f"sliding_window is {window}, a number of positions or null is needed")
    pad, vocab = config.get("pad_token_id"), config.get("vocab_size")
    if type(pad) is int and type(vocab) is int and not -vocab <= pad < vocab:
        raise _wrong(model_dir, f"pad_token_id is {pad}, the vocabulary has {vocab} tokens")


def _wrong(model_dir: Path, problem: str) -> TargetIncompatibleError:
    return TargetIncompatibleError(
        f"{model_dir / 'config.json'}: {problem}; name a decoder-only model, or save its config again", param=_PARAM
    )
