"""Starts a vLLM for a group of models, and returns the facts about it that requests need."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from api.endpoint.engines.vllm_runner import Loaded
from eda_service.config.deployment import Accelerator, EngineSpec
from eda_service.config.job import TargetSpec
from eda_service.errors import RunError
from eda_service.targets.ends import choose_dtype, max_context_of

_SERVER = "api.endpoint.engines.vllm_server"


class EngineStartError(RunError):
    """vLLM did not start: it refuses the model, or the machine lacks a requirement, which vLLM's own error names."""

    code = "engine_failed"


@dataclass(frozen=True)
class StartPlan:
    """The settings of one vLLM that is to be started.

    Attributes:
        name: Name in vLLM's own logs.
        what: The draft in words, for the error when vLLM does not start.
        target: Target, read for its dtype.
        target_dir: Directory with the target's weights.
        draft_dir: Directory of the exported draft; None: no speculation.
        config: Config of the target.
        stop_token_ids: Stop token ids of the target.
        vocab_size: Vocabulary size of the target.
        engine: Settings of the engine.
        takes_adapters: Whether LoRA adapters are added to the target, each of which may have a pack.
    """

    name: str
    what: str
    target: TargetSpec
    target_dir: Path
    draft_dir: Path | None
    config: Any
    stop_token_ids: frozenset[int]
    vocab_size: int
    engine: EngineSpec
    takes_adapters: bool = False


async def start_vllm(plan: StartPlan) -> Loaded:
    """Start a vLLM on this event loop.

    Raises:
        EngineStartError: vLLM does not start.
    """
    await asyncio.to_thread(importlib.import_module, _SERVER)  # seconds, which the event loop must not wait for
    from api.endpoint.engines.vllm_server import ServerPlan, start_server

    on_cpu = plan.engine.accelerator is Accelerator.CPU
    dtype = choose_dtype(plan.target, torch.device("cpu" if on_cpu else "cuda"))
    longest = min(plan.engine.vllm.max_model_len, max_context_of(plan.config))
    try:
        source = await start_server(
            ServerPlan(
                name=plan.name,
                target_dir=plan.target_dir,
                draft_dir=plan.draft_dir,
                dtype=str(dtype).removeprefix("torch."),
                max_model_len=longest,
                engine=plan.engine,
                takes_adapters=plan.takes_adapters,
            )
        )
    except Exception as error:  # vLLM's processes end with errors of every kind
        raise EngineStartError(f"vLLM does not start with {plan.what}: {error}; the replica's log has more") from error
    return Loaded(
        source=source,
        num_draft_tokens=0 if plan.draft_dir is None else plan.engine.vllm.num_draft_tokens,
        stop_token_ids=plan.stop_token_ids,
        vocab_size=plan.vocab_size,
        max_model_len=longest,
        on_cpu=on_cpu,
    )


def size_of_weights(directory: Path) -> int:
    """Return the size in bytes of a directory's weight files."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
