"""Answers written by vLLM instead of the project's engine: token ids in, token ids out.

vLLM runs inside this process, so that nothing of it outlives the actor. Prompts, masks, shards and features stay the
project's own: the target reads each answer once more for its features. On vLLM's CPU build a request's seed can end the
engine (0.32), so there all requests draw from one stream, and a shard that is generated again gets other answers when
the temperature is above 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from eda_service.decoding.request import SamplingParams
from eda_service.decoding.vllm_shaping import vllm_shaping

IN_PROCESS = ("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


class Writer(Protocol):
    """Answers many prompts at once."""

    def write(self, prompts: Mapping[str, list[int]], params: Mapping[str, SamplingParams]) -> dict[str, list[int]]:
        """Token ids of the answers, a final stop token included, by sample id."""


class VllmWriter:
    """Loads vLLM. Set the environment first: `IN_PROCESS`, and on a CPU what its build reads.

    Args:
        model_dir: The whole target.
        dtype: float32 or bfloat16.
        stop_token_ids: The target's own.
        vocab_size: The target's.
        max_tokens: Prompt plus answer of any request.
        batch_size: Sequences decoded together.
        eager: Do not compile.
        seed: Of the one stream, and of each request's own where a GPU computes.
        gpu_memory_fraction: Of the GPU, for weights and cache; None: on a CPU.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        dtype: str,
        stop_token_ids: Collection[int],
        vocab_size: int,
        max_tokens: int,
        batch_size: int,
        eager: bool,
        seed: int,
        gpu_memory_fraction: float | None,
    ) -> None:
        from vllm import LLM

        self._stop_token_ids, self._vocab_size = sorted(stop_token_ids), vocab_size
        self._seeded = gpu_memory_fraction is not None
        settings: dict[str, Any] = (
            {} if gpu_memory_fraction is None else {"gpu_memory_utilization": gpu_memory_fraction}
        )
        self._llm = LLM(
            model=str(model_dir),
            dtype=dtype,
            max_model_len=max_tokens,
            max_num_seqs=batch_size,
            enforce_eager=eager,
            seed=seed,
            enable_prefix_caching=False,
            disable_log_stats=True,
            **settings,
        )

    def write(self, prompts: Mapping[str, list[int]], params: Mapping[str, SamplingParams]) -> dict[str, list[int]]:
        """Token ids of the answers, a final stop token included, by sample id."""
        ids = list(prompts)
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompts[each]} for each in ids],
            [self._params(params[each]) for each in ids],
            use_tqdm=False,
        )
        return {each: list(output.outputs[0].token_ids) for each, output in zip(ids, outputs, strict=True)}

    def _params(self, params: SamplingParams) -> Any:
        from vllm import SamplingParams as Made

        return Made(
            **vllm_shaping(params, self._vocab_size),
            max_tokens=params.max_new_tokens,
            seed=params.seed if self._seeded else None,
            stop_token_ids=self._stop_token_ids,
            detokenize=False,
        )
