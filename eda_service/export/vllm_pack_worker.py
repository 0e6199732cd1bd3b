"""vLLM's worker with a draft that knows which LoRA adapter each request has (`--worker-cls`).

vLLM tells a draft nothing about adapters; its runner knows them. Before each draft this worker writes the place of
every request of the batch into the draft's buffers. It also repairs two defects of vLLM 0.32 with adapters. The V1
runner gives the draft the target's embedding in its wrapper for adapters, with which every draft fails or looks up
other rows. And on CPUs a request without an adapter, in a batch with others, is answered with the adapter in the last
slot (vllm-project/vllm#48421, open), which here is a slot of zeros that no adapter gets.

`put_pack`, `remove_pack`, `packs` and `swap_draft` are called while vLLM runs: `LLM.collective_rpc`, or
`POST /collective_rpc` of a server started with VLLM_SERVER_DEV_MODE=1. They run between two steps of the engine.

Written against vLLM 0.32: the V1 runner, and from its source the V2 runner.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

from eda_service.engines.vllm_worker import unwrap_embedding
from eda_service.errors import InputError
from eda_service.export.files.directory import WEIGHTS, read_eda_config
from eda_service.export.packed.draft_packs import DraftPacks

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as _Worker
else:
    from vllm.v1.worker.gpu_worker import Worker as _Worker

_SHAPE = ("destination", "form", "gate", "draft", "private", "scale", "draft_vocab_size")
"""Fields of `eda_config` that determine a draft's module."""


class TellsAdapters:
    """Additions to a worker of vLLM; also to one of another platform or purpose."""

    tells_adapters = True
    model_runner: Any
    vllm_config: Any
    device: torch.device

    def load_model(self, **keywords: Any) -> None:
        """Load target and draft."""
        super().load_model(**keywords)  # type: ignore[misc]
        draft = _draft_of(self.model_runner)
        unwrap_embedding(draft)
        if current_platform.is_cpu():
            _add_empty_slot(self.model_runner.get_model())

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Sample tokens, and draft the next ones."""
        packs = self._packs()
        if packs is not None:
            packs.set_requests(adapters_of(self.model_runner))
        return super().sample_tokens(grammar_output)  # type: ignore[misc]

    def packs(self) -> list[dict[str, Any]]:
        """List the pack of each adapter: `adapter`, `source` and `place`."""
        packs = self._packs()
        return [] if packs is None else [each.model_dump() for each in packs.placed()]

    def put_pack(self, adapter: str, directory: str) -> dict[str, Any]:
        """Give an adapter's requests a pack to draft with, from the next step on.

        Args:
            adapter: Name of the adapter in vLLM.
            directory: Directory of the pack's plugin export, on every machine of this engine.

        Raises:
            ArtifactCorruptError: The export cannot be read.
            InputError: The pack does not fit; then nothing has changed.
        """
        started = time.perf_counter()
        placed = self._required_packs().put(adapter, Path(directory))
        return placed.model_dump() | {"seconds": round(time.perf_counter() - started, 4)}

    def remove_pack(self, adapter: str) -> None:
        """Let an adapter's requests draft with the base draft, from the next step on.

        Raises:
            NotFoundError: The adapter has no pack.
        """
        self._required_packs().remove(adapter)

    def swap_draft(self, directory: str) -> dict[str, Any]:
        """Replace this draft's weights by those of another export, of one pack and of the same shape.

        Args:
            directory: Directory of an export of the same form, on every machine of this engine.

        Raises:
            InputError: The export has another shape, or this draft holds several packs.
        """
        started = time.perf_counter()
        draft, config = _draft_of(self.model_runner), self.vllm_config.speculative_config.draft_model_config
        if draft is None or self._packs() is not None:
            raise InputError(
                "this draft holds packs, which are changed one by one; call put_pack with the adapter's name"
                if draft is not None
                else "vLLM runs without a draft that has weights; start it with --speculative-config",
                param="directory",
            )
        eda, own = read_eda_config(Path(directory)), config.hf_config.eda_config
        shape = eda.model_dump(mode="json")
        differing = [name for name in _SHAPE if shape[name] != own[name]]
        if differing:
            raise InputError(
                f"{directory} differs from the draft that runs in {', '.join(differing)}; start vLLM again with it",
                param="directory",
            )
        tensors = load_file(Path(directory) / WEIGHTS)
        with torch.device(self.device):
            initialize_layerwise_reload(draft)
            draft.load_weights(tensors.items())
            finalize_layerwise_reload(draft, config)
        config.hf_config.eda_config = shape
        return {"source": eda.source, "seconds": round(time.perf_counter() - started, 4)}

    def _packs(self) -> DraftPacks | None:
        return getattr(_draft_of(self.model_runner), "packs", None)

    def _required_packs(self) -> DraftPacks:
        packs = self._packs()
        if packs is None:
            raise InputError(
                "vLLM's draft is no export of several packs; make one with `eda export BASE_DRAFT --pack ADAPTER=PACK`",
                param="adapter",
            )
        return packs


class PackWorker(TellsAdapters, _Worker):
    """The platform's worker with these additions."""


def _add_empty_slot(model: nn.Module) -> None:
    """Add a slot of zeros after those of the adapters: "none" is slot -1, and the CPU's kernels read the last one."""
    for module in model.modules():
        slots = getattr(module, "lora_b_stacked", None)
        if isinstance(slots, tuple):
            module.lora_b_stacked = tuple(_with_zeros(each) for each in slots)  # type: ignore[assignment]
        elif isinstance(slots, Tensor):
            module.lora_b_stacked = _with_zeros(slots)


def _with_zeros(slots: Tensor) -> Tensor:
    return torch.cat([slots, torch.zeros_like(slots[:1])])


def _draft_of(runner: Any) -> Any:
    """Return a runner's draft: in V1 its drafter's, in V2 its speculator's; None without one."""
    holder = getattr(runner, "drafter", None) or getattr(runner, "speculator", None)
    model: Any = getattr(holder, "model", None)
    model = model.unwrap() if hasattr(model, "unwrap") else model
    return model if isinstance(model, nn.Module) else None


def adapters_of(runner: Any) -> list[str | None]:
    """Return the adapter's name of each request of the batch just computed, in its order; None for a request without
    one.
    """
    lora_state = getattr(runner, "lora_state", None)
    if lora_state is not None:  # V2
        state = runner.execute_model_state
        if state is None:
            return []
        requests = [lora_state.lora_requests.get(request) for request in state.input_batch.req_ids]
        return [None if request is None else request.lora_name for request in requests]
    batch = runner.input_batch
    named = {number: request.lora_name for number, request in batch.lora_id_to_lora_request.items()}
    return [named.get(int(number)) for number in batch.request_lora_mapping[: batch.num_reqs]]
