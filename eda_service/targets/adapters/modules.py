"""The modules that a LoRA adapter's settings name, as PEFT reads them.

PEFT reads `target_modules` and `exclude_modules` as regular expressions if they are strings. An author's expression may
take very long, so only expressions with bounded time are matched here: no repeated groups, and at most two repeats.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
_NAME = re.compile(r"\w{1,64}")
_MAX_PATTERN, _MAX_REPEATS, _MAX_NAME = 512, 2, 256


def is_targeted(config: Mapping[str, Any], module: str) -> bool:
    """Whether the settings of an adapter (`adapter_config.json`) give a module an update; True where it is unknown.

    Args:
        config: Settings of the adapter.
        module: Full name of the module.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    if excluded and _names(excluded, module, unknown=False):
        return False
    if any(str(whole) in module.split(".") for whole in config.get("modules_to_save") or ()):
        return False
    if config.get("ensure_weight_tying") and module == "lm_head":  # PEFT gives it the embedding's update
        return True
    if targets and not _names(targets, module, unknown=True):
        return False
    layers = config.get("layers_to_transform")
    if not isinstance(targets, list) or module in targets or layers is None or layers == []:
        return True
    found = _layer_of(module, config.get("layers_pattern"))
    return found in (layers if isinstance(layers, list) else [layers])


def _names(patterns: Any, module: str, *, unknown: bool) -> bool:
    if isinstance(patterns, list):
        return any(module == each or module.endswith(f".{each}") for each in map(str, patterns))
    if not isinstance(patterns, str) or patterns == "all-linear" or not _is_bounded(patterns, module):
        return unknown
    try:
        return re.fullmatch(patterns, module) is not None
    except re.error:
        return unknown


def _is_bounded(pattern: str, module: str) -> bool:
    """Whether a match takes at most the square of the name's length: no repeated group, and two repeats."""
    if len(pattern) > _MAX_PATTERN or len(module) > _MAX_NAME:
        return False
    return len(re.findall(r"[*+?{]", pattern)) <= _MAX_REPEATS and not re.search(r"\)[*+?{]|\\\d", pattern)


def _layer_of(module: str, patterns: Any) -> int | None:
    """Return the number of the layer a module is in; with `layers_pattern`, of a list of layers of that name."""
    names = [patterns] if isinstance(patterns, str) else patterns
    if not names:
        match = _LAYER.match(module)
        return None if match is None else int(match[1])
    for name in map(str, names):
        match = re.match(rf"(?:^|.*?\.){name}\.(\d+)\.", module) if _NAME.fullmatch(name) else None
        if match is not None:
            return int(match[1])
    return None
