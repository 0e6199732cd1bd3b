"""Destinations that load an export, and the two forms of it."""

from __future__ import annotations

from enum import StrEnum


class Destination(StrEnum):
    """Engine that will load the export; `hf` is nobody's own layout, for a hub."""

    VLLM = "vllm"
    SGLANG = "sglang"
    HF = "hf"


class ExportForm(StrEnum):
    """Dense: the gate is folded into one SwiGLU, and unmodified engines load it. Plugin: the gate is kept."""

    DENSE = "dense"
    PLUGIN = "plugin"
