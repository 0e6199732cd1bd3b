"""The check that a target can be loaded, prompted and decoded, without reading a weight.

transformers loads the model as usual, with tensors on torch's `meta` device that have the shapes of the files' headers
and no data, and reports which are missing, of another shape, or unknown to the model. The same model then processes a
few tokens with our attention and cache, which fails for a family that this engine does not support. Properties that
depend on the numbers (`eda_service.targets.fidelity`) are checked at load.

Shapes: B rows, L positions.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from eda_service.config.job import EngineKind
from eda_service.errors import TargetIncompatibleError, reason_of
from eda_service.storage.inputs import bounded_json
from eda_service.targets.adapters.check import whole_rows
from eda_service.targets.checks.config_check import check_settings, require_drivable
from eda_service.targets.checks.shards import require_unambiguous
from eda_service.targets.checks.text_check import check_text
from eda_service.targets.checks.weight_files import require_unwrapped, weight_headers
from eda_service.targets.decoder.attention import NAME as ATTENTION
from eda_service.targets.decoder.attention import visible_mask
from eda_service.targets.decoder.fused import TransformersDecoder
from eda_service.targets.decoder.slots import SlotCache
from eda_service.targets.fidelity import require_whole
from eda_service.targets.files.generation_defaults import read_generation_defaults
from eda_service.targets.files.resolve import ResolvedTarget
from eda_service.targets.files.shape import head_dim_of
from eda_service.targets.told import told

logger = logging.getLogger(__name__)

_PARAM = "target.model"
_META = torch.device("meta")
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TRIED_TOKENS = 4


def check_target(
    resolved: ResolvedTarget, *, converses: bool = True, engine: EngineKind = EngineKind.EDA
) -> tuple[str, ...]:
    """Check a target without its weights.

    Args:
        resolved: Files of the target.
        engine: Engine that will run it; vLLM supports families and quantised weights that the own engine does not.
        converses: Whether it must render conversations with a known end, as a job needs; a deployment of a model that
            only completes texts does not.

    Returns:
        Notes for the target's user, as sentences.

    Raises:
        TargetNotFoundError, TargetIncompatibleError, UnsafeCheckpointError: The target cannot be loaded, prompted or
            run.
    """
    with told(resolved.model):
        num_ids, notes = _check_model(resolved.model_dir, engine)
        rows = None if resolved.adapter_dir is None else whole_rows(resolved.adapter_dir)
        check_text(resolved, num_ids if rows is None else rows, converses=converses)
    return notes


def check_model(model_dir: Path) -> tuple[str, ...]:
    """Compare config and headers, and run the model's decoder on the meta device; return notes for its user.

    Raises:
        TargetNotFoundError, TargetIncompatibleError, UnsafeCheckpointError: The model cannot be loaded or run.
    """
    return _check_model(model_dir, EngineKind.EDA)[1]


def _check_model(model_dir: Path, engine: EngineKind) -> tuple[int, tuple[str, ...]]:
    """Return the number of token ids that have an embedding and a logit, and notes."""
    settings = _settings(model_dir)
    if engine is EngineKind.EDA:
        require_drivable(settings, model_dir)
    if (model_dir / "adapter_config.json").exists():
        raise TargetIncompatibleError(
            f"{model_dir} holds an adapter (adapter_config.json) beside the model, and loading one would load both; "
            "move the adapter's files to a directory of their own and name that as `adapter`",
            param=_PARAM,
        )
    config = load_config(model_dir)
    _check_generation(model_dir)
    read_generation_defaults(model_dir)
    require_unambiguous(model_dir)
    if getattr(config, "quantization_config", None) is not None:
        logger.info("%s is unpacked when it is loaded; its tensors are compared then", model_dir)
        return int(config.vocab_size), () if engine is EngineKind.EDA else (_quantised(config),)
    _check_words(config, model_dir)
    headers = weight_headers(model_dir)
    require_unwrapped(model_dir, headers)
    odd = next((name for name, place in headers.items() if place.dtype not in _TYPES), None)
    if odd is not None:
        raise TargetIncompatibleError(
            f"{model_dir}: {odd[:96]} has dtype {headers[odd].dtype}, weights are {', '.join(_TYPES)}; save the model "
            "as bfloat16",
            param=_PARAM,
        )
    tensors = {
        name: torch.empty(place.shape, dtype=_TYPES[place.dtype], device=_META) for name, place in headers.items()
    }
    model, info = _class_of(config, model_dir).from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        device_map={"": "meta"},
        dtype=torch.bfloat16,
        attn_implementation=ATTENTION,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused by name
    )
    note = require_whole(model, info, str(model_dir))
    if engine is EngineKind.EDA:
        _try(model, model_dir)
    num_ids = min(model.get_input_embeddings().weight.shape[0], model.get_output_embeddings().weight.shape[0])
    return num_ids, () if note is None else (note,)


def _quantised(config: Any) -> str:
    found = config.quantization_config
    method = found.get("quant_method") if isinstance(found, Mapping) else getattr(found, "quant_method", found)
    return f"the target is quantised ({str(method)[:48]}): its states are taken as vLLM computes them, quantised"


def load_config(model_dir: Path) -> Any:
    """Read the model config of a directory without running code from it.

    Raises:
        TargetIncompatibleError: The file is no config of a decoder-only model that transformers knows.
    """
    settings = _settings(model_dir)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown words, which change nothing
            config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        # The library's classes check a stranger's config and may raise any exception.
        if "auto_map" in settings and settings.get("model_type") not in CONFIG_MAPPING:
            raise _needs_code(model_dir, settings) from error
        raise TargetIncompatibleError(
            f"{model_dir / 'config.json'}: transformers cannot read it as {_kind(settings)} "
            f"({reason_of(error)}); save it again with a current transformers, or name a target of a family that "
            "docs/reference/families.md lists",
            param=_PARAM,
        ) from error
    return config


def _check_generation(model_dir: Path) -> None:
    """Check the generation config: transformers reads it with the model, and fails on values that it cannot use."""
    path = model_dir / "generation_config.json"
    if not path.is_file():
        return
    try:
        GenerationConfig.from_pretrained(model_dir, local_files_only=True)
    except Exception as error:
        raise TargetIncompatibleError(
            f"{path} cannot be used: {reason_of(error)}; correct it, or leave only eos_token_id in it", param=_PARAM
        ) from error


def _check_words(config: Any, model_dir: Path) -> None:
    """Check words that transformers looks up, for which its own errors are unclear."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [each.get("rope_type") for each in (rope, *rope.values()) if isinstance(each, dict)]
    for name, values, known in (
        ("rope_type", kinds, {"default", *ROPE_INIT_FUNCTIONS}),
        ("hidden_act", [getattr(config, "hidden_act", None)], set(ACT2FN)),
    ):
        odd = next((value for value in values if value is not None and value not in known), None)
        if odd is not None:
            raise TargetIncompatibleError(
                f"{model_dir / 'config.json'}: {name} is {str(odd)[:48]!r}, which transformers does not know (it knows "
                f"{', '.join(sorted(known))}); name a model with one of them",
                param=_PARAM,
            )


def _settings(model_dir: Path) -> dict[str, Any]:
    path = model_dir / "config.json"
    try:
        settings = bounded_json.read_object(path)
    except (ValueError, OSError) as error:
        raise TargetIncompatibleError(f"{path} cannot be read: {error}; save it again", param=_PARAM) from error
    check_settings(settings, model_dir)
    return settings


def _class_of(config: Any, model_dir: Path) -> Any:
    """Return the causal LM class that transformers uses for a config."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise TargetIncompatibleError(
            f"{model_dir} is of type {config.model_type}, of which transformers has no decoder-only causal LM; name "
            "one of a family that docs/reference/families.md lists",
            param=_PARAM,
        )
    if getattr(config, "sub_configs", None):
        raise TargetIncompatibleError(
            f"{model_dir} is of type {config.model_type}, made of {', '.join(sorted(config.sub_configs))}; save its "
            "text model as a model of its own and name that, or serve this one on vLLM (engine vllm)",
            param=_PARAM,
        )
    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return found[0] if isinstance(found, list | tuple) else found


def _kind(settings: dict[str, Any]) -> str:
    return repr(str(settings.get("model_type"))[:64])


def _needs_code(model_dir: Path, settings: dict[str, Any]) -> TargetIncompatibleError:
    return TargetIncompatibleError(
        f"{model_dir} is of type {_kind(settings)}, which transformers does not know, and brings code of its own "
        "(auto_map), which is never run here; serve it on vLLM (engine vllm), or name a target of a family that "
        "docs/reference/families.md lists",
        param=_PARAM,
    )


def require_parts(model: Any, name: str) -> Any:
    """Return the decoder of a causal LM, after a check that its norm and head are at the places this engine uses.

    Raises:
        TargetIncompatibleError: The decoder, its norm or the head is at another place.
    """
    body = model.get_decoder()
    if body is None or model.get_output_embeddings() is None or not hasattr(body, "norm"):
        raise TargetIncompatibleError(
            f"{name} ({type(model).__name__}) has no decoder with a final norm and an lm_head; use a Llama, Qwen2, "
            "Qwen3 or Mistral style model, or serve it on vLLM (engine vllm)",
            param=_PARAM,
        )
    return body


@torch.inference_mode()
def _try(model: Any, model_dir: Path) -> None:
    """Run a few tokens through the decoder as this engine would."""
    body, config = require_parts(model, str(model_dir)), model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    cache = SlotCache(
        num_layers=config.num_hidden_layers,
        num_slots=1,
        num_kv_heads=kv_heads,
        head_dim=head_dim_of(config),
        max_tokens=_TRIED_TOKENS,
        dtype=torch.bfloat16,
        device=_META,
    )
    try:
        with _META:
            ids_1L, places_1L = torch.zeros(1, _TRIED_TOKENS, dtype=torch.long), torch.arange(_TRIED_TOKENS)[None]
            cache.begin(places_1L, _TRIED_TOKENS)
            mask = visible_mask(places_1L, _TRIED_TOKENS, heads // kv_heads, torch.bfloat16)
            TransformersDecoder(body)(ids_1L, places_1L, cache, mask)
    except RuntimeError as error:
        # An operation without a meta form, or one that reads values: the check at load runs it with the weights.
        if not isinstance(error, NotImplementedError) and "meta" not in str(error):
            raise
        logger.info("%s cannot be tried without its weights: %s", model_dir, reason_of(error))
