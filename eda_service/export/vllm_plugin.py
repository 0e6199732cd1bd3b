"""Entry point `vllm.general_plugins`: registers the architectures of the gated drafts with vLLM.

vLLM calls `register` in each of its processes; nothing heavy is imported until a model of one of them is loaded. Inside
this project's service those processes also end with the process that started them.
"""

from __future__ import annotations

from eda_service.engines.vllm_environment import die_with_parent

ARCHITECTURE = "EagleEdaForCausalLM"
EAGLE3_ARCHITECTURE, EAGLE3_QWEN3_ARCHITECTURE = "Eagle3EdaForCausalLM", "Eagle3EdaQwen3ForCausalLM"
PACK_WORKER = "eda_service.export.vllm_pack_worker.PackWorker"
"""vLLM's `--worker-cls` for an export of several packs."""
_MODELS = {
    ARCHITECTURE: "eda_service.export.vllm_model:EagleEdaForCausalLM",
    EAGLE3_ARCHITECTURE: "eda_service.export.vllm_eagle3:Eagle3EdaForCausalLM",
    EAGLE3_QWEN3_ARCHITECTURE: "eda_service.export.vllm_eagle3:Eagle3EdaQwen3ForCausalLM",
}


def register() -> None:
    """Register the architectures; calling it again changes nothing."""
    from vllm import ModelRegistry

    die_with_parent()
    known = ModelRegistry.get_supported_archs()
    for architecture, model in _MODELS.items():
        if architecture not in known:
            ModelRegistry.register_model(architecture, model)
