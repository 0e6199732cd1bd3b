"""The check of a LoRA adapter against its base before either is loaded: settings, ranks, names and shapes, from files
only.

Some settings of PEFT import a module by its name, repeat layers, or match every module against a regular expression of
the adapter's author, which may take very long. Here only settings pass that change nothing but weights, and the modules
are those that the adapter's own tensors name.

Shapes: r rank, I input width, O output width of one linear.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eda_service.errors import TargetIncompatibleError, UnsafeCheckpointError
from eda_service.storage.inputs import bounded_json
from eda_service.storage.inputs.tensor_header import TensorPlace, read_header
from eda_service.targets.adapters.modules import is_targeted
from eda_service.targets.checks.weight_files import weight_headers

MAX_RANK = 1024
_PARAM = "target.adapter"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_PATTERNS = 4096
_PATTERN = re.compile(r"\^?[\w.\\-]{1,256}\$?")  # a name, which PEFT reads as a regular expression: no repeats
_TENSOR = re.compile(
    r"base_model\.model\.(?P<module>[\w.]+?)(?P<kind>\.lora_A|\.lora_B|\.lora_embedding_A|\.lora_embedding_B|"
    r"\.lora_magnitude_vector|\.modules_to_save|\.base_layer)?(?:\.default)?(?:\.(?P<leaf>weight|bias))?"
)
_WHOLE = ("embed_tokens", "lm_head")
"""Modules that an adapter may contain as whole matrices (`modules_to_save`, or because the trainer resized them)."""
_MAX_MORE_ROWS = 1 << 20
_WHOLE_KINDS = (None, ".modules_to_save", ".base_layer")
_LOW_RANK = (".lora_A", ".lora_B", ".lora_embedding_A", ".lora_embedding_B")
_PAIRS = ((".lora_A", ".lora_B"), (".lora_embedding_A", ".lora_embedding_B"))
_WORDS: dict[str, tuple[Any, ...]] = {
    "bias": ("none", "all", "lora_only", None),
    "task_type": ("CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", None),  # what its trainer called the same updates
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias"), (True, False, None)),
}
"""Settings that must be one of a few words."""
_STARTS = re.compile(r"gaussian|orthogonal|eva|olora|pissa(_niter_[0-9]{1,3})?|corda|loftq")
_SAFE = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "peft_type", "peft_version", "task_type", "revision"),
        *("target_modules", "exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save"),
        *("r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "use_dora", "bias", "init_lora_weights"),
        *("lora_dropout", "inference_mode", "runtime_config", "ensure_weight_tying", "fan_in_fan_out", "lora_bias"),
        *("megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config"),
    }
)
"""Settings that may be set; any other must be off, so that an unknown option is not ignored."""


def check_adapter(adapter_dir: Path, model_dir: Path) -> None:
    """Check that an adapter is a plain LoRA adapter of this base.

    Raises:
        TargetIncompatibleError: A setting, a rank, a name or a shape does not fit.
        UnsafeCheckpointError: A file does not match its header, or a setting would run more than arithmetic.
    """
    config = read_config(adapter_dir)
    base = weight_headers(model_dir)
    tensors = read_header(adapter_dir / "adapter_model.safetensors", param=_PARAM)
    for name, place in tensors.items():
        _check_tensor(adapter_dir, name, place, base, config)
    _check_complete(adapter_dir, tensors, base, config)
    whole_rows(adapter_dir)


def read_config(adapter_dir: Path) -> dict[str, Any]:
    """Read the settings of an adapter.

    Raises:
        TargetIncompatibleError: The settings cannot be read, or one is out of bounds.
        UnsafeCheckpointError: A setting would run more than arithmetic.
    """
    path = adapter_dir / "adapter_config.json"
    try:
        config = bounded_json.read_object(path, max_bytes=_MAX_CONFIG_BYTES)
    except (ValueError, OSError) as error:
        raise TargetIncompatibleError(f"{path} cannot be read: {error}; save it again", param=_PARAM) from error
    for name, value in config.items():
        if name not in _SAFE and value not in (None, False, {}, [], ""):
            raise UnsafeCheckpointError(
                f"{path} sets {name[:64]!r} to {str(value)[:64]!r}, which is not read here; save it without",
                param=_PARAM,
            )
    if str(config.get("init_lora_weights", "")).startswith("pissa_niter"):
        raise _misfit(
            path,
            "init_lora_weights is 'pissa_niter', which changes the base by chance, each time in another way; save it "
            "with path_initial_model_for_weight_conversion",
        )
    for name, allowed in _WORDS.items():
        found = config.get(name)
        if not any(found is word or (isinstance(word, str) and found == word) for word in allowed):
            known = ", ".join(json.dumps(word) for word in allowed)
            raise _misfit(path, f"{name} is {repr(found)[:48]}, here it may be {known}")
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool | None) and not (isinstance(start, str) and _STARTS.fullmatch(start)):
        raise _misfit(path, f"init_lora_weights is {str(start)[:48]!r}, which is no start that PEFT knows")
    _check_number(path, "lora_dropout", config.get("lora_dropout") or 0)
    _check_rank(path, "r", config.get("r", 8))
    _check_number(path, "lora_alpha", config.get("lora_alpha", 8))
    for name, check in (("rank_pattern", _check_rank), ("alpha_pattern", _check_number)):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict) or len(patterns) > _MAX_PATTERNS:
            raise _misfit(path, f"{name} is no object of at most {_MAX_PATTERNS} modules")
        for pattern, value in patterns.items():
            if _PATTERN.fullmatch(pattern) is None:
                raise UnsafeCheckpointError(
                    f"{path}: {name} holds {pattern[:64]!r}, which is no module's name; write names", param=_PARAM
                )
            check(path, f"{name}.{pattern[:64]}", value)
    whole = config.get("modules_to_save") or []
    if not isinstance(whole, list) or not set(map(str, whole)) <= set(_WHOLE):
        raise _misfit(path, f"modules_to_save is {str(whole)[:128]}; it may name {' and '.join(_WHOLE)}")
    return config


def changed_modules(adapter_dir: Path) -> list[str]:
    """List the full names of the modules that an adapter's tensors change by low-rank updates, sorted.

    Raises:
        UnsafeCheckpointError: The file does not match its header.
    """
    names = read_header(adapter_dir / "adapter_model.safetensors", param=_PARAM)
    found = [match for name in names if (match := _TENSOR.fullmatch(name)) is not None]
    return sorted({match["module"] for match in found if match["kind"] in (".lora_A", ".lora_embedding_A")})


def whole_modules(adapter_dir: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the embeddings and heads that an adapter contains as whole matrices, by the module's full
    name.
    """
    found = {}
    for name, place in read_header(adapter_dir / "adapter_model.safetensors", param=_PARAM).items():
        match = _TENSOR.fullmatch(name)
        if match is not None and match["leaf"] == "weight" and match["kind"] in _WHOLE_KINDS:
            module = match["module"]
            if module.rsplit(".", 1)[-1] in _WHOLE:
                found[module] = place.shape
    return found


def whole_rows(adapter_dir: Path) -> int | None:
    """Return the rows of the vocabulary that an adapter was trained with, if it contains embedding or head; else None.

    Raises:
        TargetIncompatibleError: Embedding and head have different numbers of rows.
    """
    rows = {shape[0] for shape in whole_modules(adapter_dir).values()}
    if len(rows) > 1:
        raise _misfit(adapter_dir, f"its embedding and head have {' and '.join(map(str, sorted(rows)))} rows")
    return next(iter(rows), None)


def _check_complete(
    adapter_dir: Path, tensors: Mapping[str, TensorPlace], base: Mapping[str, TensorPlace], config: Mapping[str, Any]
) -> None:
    """Check that no tensor is missing: PEFT initialises missing ones and only logs a warning."""
    parts: dict[str, set[str]] = {}
    for name in tensors:
        match = _TENSOR.fullmatch(name)
        if match is not None and match["kind"] is not None:
            parts.setdefault(match["module"], set()).add(match["kind"])
    for module, kinds in parts.items():
        for first, second in _PAIRS:
            if len(kinds & {first, second}) == 1:
                there, gone = (first, second) if first in kinds else (second, first)
                raise _misfit(adapter_dir, f"{module[:96]} has {there[1:]} and no {gone[1:]}, half of an update")
        if not kinds & set(_LOW_RANK):
            continue
        if not is_targeted(config, module):
            raise _misfit(
                adapter_dir,
                f"it changes {module[:96]}, which target_modules, exclude_modules and layers_to_transform of its "
                "adapter_config.json leave out",
            )
        if config.get("use_dora") and ".lora_magnitude_vector" not in kinds:
            raise _misfit(adapter_dir, f"use_dora is true, and {module[:96]} has no lora_magnitude_vector")
        if config.get("lora_bias") and f"{module}.bias" not in base:
            raise _misfit(adapter_dir, f"lora_bias is true, and {module[:96]} of the base has no bias to add it to")
    if not any(kinds & set(_LOW_RANK) for kinds in parts.values()):
        raise _misfit(adapter_dir, "it holds no update (lora_A and lora_B) of any module")
    whole = {module.rsplit(".", 1)[-1] for module in whole_modules(adapter_dir)}
    gone_whole = sorted(set(config.get("modules_to_save") or []) - whole)
    if gone_whole:
        raise _misfit(adapter_dir, f"modules_to_save names {', '.join(gone_whole)}, and no such matrix is in the file")


def rank_of(config: Mapping[str, Any], module: str) -> int:
    """Return the rank of a module's update as PEFT reads it from the settings: by the first pattern that
    ends its name.
    """
    for pattern, rank in (config.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return int(rank)
    return int(config.get("r", 8))


def _check_tensor(
    adapter_dir: Path, name: str, place: TensorPlace, base: Mapping[str, TensorPlace], config: Mapping[str, Any]
) -> None:
    match = _TENSOR.fullmatch(name)
    if match is None:
        raise _misfit(adapter_dir, f"it holds {name[:96]!r}, which is no part of a LoRA adapter")
    if not place.dtype.startswith(("F", "BF")):
        raise _misfit(adapter_dir, f"{name[:96]} has dtype {place.dtype}; updates are floating-point numbers")
    module, kind, leaf = match["module"], match["kind"], match["leaf"]
    weight = base.get(f"{module}.weight")
    if weight is None and module == "lm_head":  # tied to the embedding, which has its shape
        weight = base.get("model.embed_tokens.weight")
    own_bias = base.get(f"{module}.bias") if leaf == "bias" and kind in _WHOLE_KINDS else None
    if own_bias is not None and own_bias.shape == place.shape:  # `bias: all` brings those of norms too
        return
    if weight is None or len(weight.shape) != 2:
        raise _misfit(adapter_dir, f"it changes {module[:96]}, and the base has no such linear")
    if kind in _WHOLE_KINDS and leaf == "weight" and module.rsplit(".", 1)[-1] in _WHOLE:
        rows, width = place.shape if len(place.shape) == 2 else (0, 0)
        if width == weight.shape[1] and 1 <= rows <= weight.shape[0] + _MAX_MORE_ROWS:
            return  # the rows of a vocabulary that the trainer resized
    width_o, width_i = reversed(weight.shape) if config.get("fan_in_fan_out") else weight.shape
    wanted: tuple[int | None, ...] = {
        ".lora_A": (None, width_i),
        ".lora_B": (width_o,) if leaf == "bias" else (width_o, None),
        ".lora_embedding_A": (None, weight.shape[0]),
        ".lora_embedding_B": (weight.shape[1], None),
        ".lora_magnitude_vector": (weight.shape[1] if module.endswith("embed_tokens") else width_o,),
    }.get(kind, weight.shape if leaf == "weight" else (width_o,))
    rank = next((found for found, want in zip(place.shape, wanted, strict=False) if want is None), 1)
    fits = len(place.shape) == len(wanted) and all(
        want in (None, found) for found, want in zip(place.shape, wanted, strict=False)
    )
    if not fits or not 1 <= rank <= MAX_RANK:
        shown = " x ".join(f"1..{MAX_RANK}" if want is None else str(want) for want in wanted)
        found = " x ".join(map(str, place.shape)) or "a scalar"
        raise _misfit(adapter_dir, f"{name[:96]} is {found}, the base needs {shown}")
    if kind in _LOW_RANK and None in wanted and rank != rank_of(config, module):
        raise _misfit(
            adapter_dir, f"{name[:96]} has rank {rank}, its adapter_config.json says {rank_of(config, module)}"
        )


def _check_rank(path: Path, name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise _misfit(path, f"{name} is {repr(value)[:32]}, allowed are 1 to {MAX_RANK}")


def _check_number(path: Path, name: str, value: Any) -> None:
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e6:
        raise _misfit(path, f"{name} is {repr(value)[:32]}, a number up to 1,000,000 is needed")


def _misfit(path: Path, problem: str) -> TargetIncompatibleError:
    return TargetIncompatibleError(
        f"{path}: {problem}; name the base it was trained on, or save it again", param=_PARAM
    )
