"""Entry point `vllm.general_plugins`: teaches vLLM the gated draft's architecture.

vLLM calls `register` in each of its processes; nothing heavy is imported until a model of that architecture is loaded.
"""

from __future__ import annotations

ARCHITECTURE = "EagleEdaForCausalLM"
_MODEL = "eda_service.export.vllm_model:EagleEdaForCausalLM"


def register() -> None:
    """Register the architecture; calling it again changes nothing."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, _MODEL)
