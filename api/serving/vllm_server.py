"""`ray.serve.llm`'s LLMServer inside our replica, fed with token ids.

LLMServer turns a config into a running vLLM: placement, accelerators, the engine's own processes. Its OpenAI handlers
are not used: the ingress has them. This module imports vLLM; import it only where vLLM is installed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig

from eda_service.config import Accelerator, EngineSpec
from eda_service.distributed.vllm_environment import prepare_cpu


@dataclass(frozen=True)
class ServerPlan:
    """What one vLLM runs.

    Attributes:
        name: Served name, in vLLM's own logs.
        draft_dir: An export; None: no speculation.
        dtype: float32 or bfloat16.
    """

    name: str
    target_dir: Path
    draft_dir: Path | None
    dtype: str
    max_model_len: int
    engine: EngineSpec


class FilesAreHere(CallbackBase):
    """Starts no task per node to download what lies on storage already."""

    async def on_before_node_init(self) -> None:
        """Say so."""
        self.ctx.run_init_node = False


def llm_config(plan: ServerPlan) -> LLMConfig:
    """The plan in ray.serve.llm's words; the only place where vLLM's engine arguments are written."""
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
    if plan.draft_dir is not None:
        arguments["speculative_config"] = {
            "method": "eagle",
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
    """Ray's vLLM engine with its token interface let out, and an end."""

    def generate(self, prompt_ids: list[int], params: Any, request_id: str) -> AsyncGenerator[Any, None]:
        """vLLM's outputs of one request, as they come; closing it aborts the request."""
        found: AsyncGenerator[Any, None] = self._engine_client.generate(
            {"prompt_token_ids": prompt_ids}, params, request_id
        )
        return found

    @property
    def is_dead(self) -> bool:
        """Whether its processes are gone."""
        return bool(self._engine_client.errored)

    async def shutdown(self) -> None:
        """End its processes; Ray's own leaves that to the replica's end."""
        await super().shutdown()
        self._engine_client.shutdown()


class TokenServer(LLMServer):
    """LLMServer that starts our engine and tells nobody: Ray's telemetry actor would stay for good."""

    async def _start_engine(self) -> None:
        await self.engine.start()


async def start_server(plan: ServerPlan) -> TokenEngine:
    """A running engine, on this event loop."""
    settings = plan.engine.vllm
    if plan.engine.accelerator is Accelerator.CPU:
        prepare_cpu(kv_cache_gib=settings.kv_cache_gib, threads=settings.threads)
    server = TokenServer.sync_init(llm_config(plan), engine_cls=TokenEngine)
    await server.start()
    engine: TokenEngine = server.engine
    return engine
