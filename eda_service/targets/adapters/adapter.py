"""Reading a PEFT LoRA adapter as the matrices of its updates; an adapter that can only be merged is refused.

Shapes: r rank, I input width, O output width of one linear.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from eda_service.errors import AdapterUnstackableError, TargetIncompatibleError
from eda_service.storage.files import sha256_file, sha256_text
from eda_service.storage.inputs.tensor_header import read_header

_TENSOR = re.compile(r"^base_model\.model\.(.*\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+_proj))\.lora_([AB])\.weight$")
# Settings without effect on the function of the adapted model; all others must be off, so that an unknown option is
# not ignored.
_HARMLESS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "peft_type", "peft_version", "task_type", "revision"),
        *("target_modules", "exclude_modules", "layers_pattern", "layers_to_transform"),
        *("r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "bias", "init_lora_weights"),
        *("lora_dropout", "inference_mode", "runtime_config", "ensure_weight_tying"),
        *("megatron_core", "qalora_group_size"),
    }
)
_DEFAULT = 8  # PEFT's, of `r` and of `lora_alpha`
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # the others change the base's own weights


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter ready to be stacked.

    Attributes:
        key: Hash of the adapter's weights and settings: equal adapters are held once.
        rank: The largest rank of its updates.
        updates: Matrices by (layer, linear): A (r, I), and B (O, r) times the adapter's scaling.
    """

    key: str
    rank: int
    updates: Mapping[tuple[int, str], tuple[Tensor, Tensor]]


def unstackable_reason(config: Mapping[str, Any]) -> str | None:
    """Return why an adapter of these settings (`adapter_config.json`) can only be merged; None if it can be stacked."""
    if config.get("bias", "none") != "none":
        return f"bias is {config['bias']!r}"
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        return f"init_lora_weights is {config['init_lora_weights']!r}, which changes the base's weights"
    for name, value in config.items():
        if name not in _HARMLESS and value not in (None, False, {}, [], ""):
            return f"{name} is {value!r}"
    return None


def is_stackable(directory: Path) -> bool:
    """Whether an adapter's file holds updates of the layers' linears only; any other adapter is merged."""
    names = read_header(directory / "adapter_model.safetensors", param="target.adapter")
    return all(_TENSOR.fullmatch(name) for name in names)


def read_adapter(directory: Path, *, dtype: torch.dtype, device: torch.device) -> Adapter:
    """Read and check an adapter.

    Args:
        directory: Directory of adapter_config.json and adapter_model.safetensors, as `resolve_target` has checked them.
        dtype: Dtype of the target.
        device: Device of the target.

    Raises:
        AdapterUnstackableError: The adapter changes more than the seven linears of a layer, or in another way than
            LoRA.
        TargetIncompatibleError: The file cannot be read, lacks half of an update, or holds a number that is not finite
            (which would spread to the rows of other adapters: zero times infinity is NaN).
    """
    config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    reason = unstackable_reason(config)
    if reason is not None:
        raise _unstackable(directory, reason)
    path = directory / "adapter_model.safetensors"
    try:
        tensors = load_file(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise TargetIncompatibleError(f"{path} cannot be read: {error}", param="target.adapter") from error
    updates: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise _unstackable(directory, f"it changes {name}")
        module, layer, linear, side = match.groups()
        other = name.replace(f".lora_{side}.", ".lora_B." if side == "A" else ".lora_A.")
        if other not in tensors or not bool(torch.isfinite(tensor).all()):
            problem = "is not finite" if other in tensors else f"comes without {other}"
            raise TargetIncompatibleError(f"{path}: {name} {problem}; save it again", param="target.adapter")
        if side == "A":
            updates[int(layer), linear] = _update(tensor, tensors[other], scaling_of(config, module), dtype)
    key = sha256_text(sha256_file(path) + json.dumps(config, sort_keys=True))
    return Adapter(key, max((a_rI.shape[0] for a_rI, _ in updates.values()), default=0), updates)


def scaling_of(config: Mapping[str, Any], module: str) -> float:
    """Return PEFT's factor of B A for one module: alpha / r, or alpha / sqrt(r) with rank stabilisation."""
    from peft.utils.other import get_pattern_key

    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank = ranks.get(get_pattern_key(list(ranks), module), config.get("r", _DEFAULT))
    alpha = alphas.get(get_pattern_key(list(alphas), module), config.get("lora_alpha", _DEFAULT))
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _update(a_rI: Tensor, b_Or: Tensor, scaling: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return a_rI.to(dtype), (b_Or.float() * scaling).to(dtype)


def _unstackable(directory: Path, reason: str) -> AdapterUnstackableError:
    return AdapterUnstackableError(
        f"adapter {directory} cannot share its base with others: {reason}; it is served merged, with a base of its own",
        param="target.adapter",
    )
