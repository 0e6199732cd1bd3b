"""`ray.serve.llm`'s LLMServer inside the service's replica, which passes token ids to it.

LLMServer turns a config into a running vLLM: placement, accelerators, the engine's own processes. Its OpenAI handlers
are not used, because the ingress has its own. This module imports vLLM; import it only where vLLM is installed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest

from api.endpoint.engines.vllm_params import vllm_params
from api.endpoint.engines.vllm_runner import LoraAdapter
from eda_service.config.deployment import Accelerator, EngineSpec
from eda_service.decoding.request import SamplingParams
from eda_service.engines.vllm_environment import prepare_cpu, tie_children
from eda_service.errors import RequestError
from eda_service.export.files.directory import read_eda_config
from eda_service.export.vllm_plugin import PACK_WORKER


@dataclass(frozen=True)
class ServerPlan:
    """The settings of one vLLM.

    Attributes:
        name: Served name, for vLLM's own logs.
        draft_dir: Directory of the exported draft; None: no speculation.
        dtype: Either float32 or bfloat16.
        takes_adapters: Whether LoRA adapters are added to the target, each of which may have a pack.
    """

    name: str
    target_dir: Path
    draft_dir: Path | None
    dtype: str
    max_model_len: int
    engine: EngineSpec
    takes_adapters: bool = False


class FilesAreHere(CallbackBase):
    """Skips the task per node that downloads the model's files, because they lie on storage already."""

    async def on_before_node_init(self) -> None:
        """Tell Ray to skip the download."""
        self.ctx.run_init_node = False


def llm_config(plan: ServerPlan) -> LLMConfig:
    """Return the plan as ray.serve.llm's config; vLLM's engine arguments are written nowhere else."""
    engine, settings = plan.engine, plan.engine.vllm
    arguments: dict[str, Any] = {
        "dtype": plan.dtype,
        "max_model_len": plan.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": False,  # `usage` reports no cached tokens
        "trust_remote_code": False,
        "disable_log_stats": False,  # queue and prefill times of each request
    }
    if engine.accelerator is Accelerator.GPU:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_fraction
    if plan.takes_adapters:
        arguments |= {
            "enable_lora": True,
            "max_loras": settings.max_adapters,
            "max_lora_rank": settings.max_adapter_rank,
            "worker_cls": PACK_WORKER,
        }
    if plan.draft_dir is not None:
        arguments["speculative_config"] = {
            "method": read_eda_config(plan.draft_dir).vllm_method,
            "model": str(plan.draft_dir),
            "num_speculative_tokens": settings.num_draft_tokens,
        }
    return LLMConfig(
        model_loading_config={"model_id": plan.name, "model_source": str(plan.target_dir)},
        accelerator_config={"kind": engine.accelerator.value},
        engine_kwargs=arguments,
        log_engine_metrics=False,
        callback_config={"callback_class": FilesAreHere},
    )


class TokenEngine(VLLMEngine):
    """Ray's vLLM engine with a token interface and a shutdown.

    Ray builds vLLM on the event loop, which then stands still for the minute in which vLLM's processes load. Here a
    thread builds it, so that health checks and requests to another engine go on.
    """

    _prepared: Any = None
    _client: Any = None

    async def start(self) -> None:
        """Start vLLM's processes, then Ray's handlers around them."""
        context = self.llm_config.get_or_create_callback().ctx
        prepared = await asyncio.to_thread(super()._prepare_engine_config, context)
        arguments, _, config = prepared
        start, placement = super()._start_async_llm_engine, context.placement_group
        self._client = await asyncio.to_thread(start, arguments, config, placement)
        self._prepared = prepared
        await super().start()

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        return self._prepared

    def _start_async_llm_engine(self, *_: Any) -> Any:
        return self._client

    async def generate(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        stop_token_ids: frozenset[int],
        vocab_size: int,
        request_id: str,
        adapter: LoraAdapter | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield vLLM's outputs of one request as they come; closing it, or cancelling its reader, aborts the request.

        Raises:
            RequestError: vLLM refuses the request.
        """
        asked = vllm_params(params, stop_token_ids, vocab_size)
        lora = None if adapter is None else _lora(adapter)
        prompt = {"prompt_token_ids": prompt_ids}
        try:
            async for output in self._client.generate(prompt, asked, request_id, lora_request=lora):
                yield output
        except (VLLMClientError, ValueError) as error:
            raise RequestError(f"vLLM refuses the request: {error}") from error

    async def add_adapter(self, adapter: LoraAdapter) -> None:
        """Load an adapter before its first request."""
        await self._client.add_lora(_lora(adapter))

    async def call(self, method: str, *arguments: str) -> None:
        """Call a method of `PackWorker` in every worker, between two steps."""
        await self._client.collective_rpc(method, args=arguments)

    @property
    def is_dead(self) -> bool:
        """Whether its processes are gone."""
        return bool(self._client.errored)

    async def shutdown(self) -> None:
        """End vLLM's processes; Ray would do so only at the replica's end."""
        await super().shutdown()
        self._client.shutdown()


def _lora(adapter: LoraAdapter) -> LoRARequest:
    return LoRARequest(adapter.name, adapter.number, str(adapter.directory))


class TokenServer(LLMServer):
    """LLMServer that starts `TokenEngine` and sends no telemetry: Ray's telemetry actor would never end."""

    async def _start_engine(self) -> None:
        await self.engine.start()


async def start_server(plan: ServerPlan) -> TokenEngine:
    """Start an engine on this event loop."""
    settings = plan.engine.vllm
    tie_children()
    if plan.engine.accelerator is Accelerator.CPU:
        prepare_cpu(kv_cache_gib=settings.kv_cache_gib, threads=settings.threads)
    server = TokenServer.sync_init(llm_config(plan), engine_cls=TokenEngine)
    try:
        await server.start()
    except BaseException:
        if server.engine is not None and server.engine._client is not None:
            await server.engine.shutdown()
        raise
    engine: TokenEngine = server.engine
    return engine
