"""Runs inside vLLM's workers: keeps the states of every forward by request and position, during decoding.

Written against vLLM 0.32 (`vllm/v1/worker/gpu_model_runner.py`, which the CPU runner extends, and
`vllm/v1/worker/gpu/model_runner.py`). Both runners hold the results of the last forward until the next tokens are
drawn: states after the final norm, and those of the layers that the model was configured to return for a draft.

Shapes: N tokens of a batch, D hidden, C width of what is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.platforms import current_platform

from eda_service.engines.vllm_blocks import joined, save_blocks
from eda_service.engines.vllm_environment import CAPTURES, die_with_parent

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
else:
    from vllm.v1.worker.gpu_worker import Worker  # type: ignore[assignment]


class CapturingWorker(Worker):  # type: ignore[misc,valid-type]
    """A worker of vLLM whose first rank keeps states until they are fetched."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        die_with_parent()  # a rank that waits for another one does not notice the caller's end
        super().__init__(*arguments, **settings)

    def load_model(self, **settings: Any) -> None:
        """Load the model, and configure it to return the layers' states."""
        super().load_model(**settings)
        unwrap_embedding(getattr(getattr(self.model_runner, "drafter", None), "model", None))
        self._keeps = True
        self._captures: tuple[int, ...] | None = self.vllm_config.additional_config.get(CAPTURES)
        self._kept: dict[str, list[tuple[int, Tensor]]] = {}
        if self._captures:
            from vllm.model_executor.models.interfaces import supports_eagle3

            model = self.model_runner.get_model()
            if not supports_eagle3(model):
                raise TypeError(
                    f"vLLM's {type(model).__name__} hands out no layers (SupportsEagle3), which this draft reads; "
                    "adapt a draft of kind eagle1, or set target.engine to eda"
                )
            self.model_runner.use_aux_hidden_state_outputs = True
            model.set_aux_hidden_state_layers(tuple(self._captures))

    def sample_tokens(self, *arguments: Any, **settings: Any) -> Any:
        """Keep the forward's states before tokens are sampled from them."""
        state = self.model_runner.execute_model_state
        if state is not None and self._captures is not None and self._keeps and get_tensor_model_parallel_rank() == 0:
            self._keep(state)
        return super().sample_tokens(*arguments, **settings)

    def _keep(self, state: Any) -> None:
        requests, counts, starts = _places(self.model_runner, state)
        captured = state.aux_hidden_states if self._captures else ()
        total = sum(counts)
        block_NC = torch.cat([each[:total] for each in (state.hidden_states, *captured)], dim=-1).cpu()
        at = 0
        for request, count, start in zip(requests, counts, starts, strict=True):
            # A copy, so that a request that ends does not hold the batch that it was in.
            self._kept.setdefault(request, []).append((start, block_NC[at : at + count].clone()))
            at += count

    def keep_states(self, keep: bool) -> None:
        """Switch the keeping of states on or off; states that were kept and not fetched are dropped."""
        self._keeps, self._kept = keep, {}

    def take_states(self, path: str | None = None) -> dict[str, Tensor] | None:
        """Return the states kept since the last call, by vLLM's id of the request: (T, D and captured layers side by
        side).

        Args:
            path: File to write the states to, if this worker is another process than the caller; None: they are
                returned.
        """
        blocks, self._kept = joined(self._kept), {}
        if path is None:
            return blocks
        if blocks:
            save_blocks(blocks, path)
        return None


def unwrap_embedding(draft: Any) -> None:
    """Give a draft the plain embedding of a target with LoRA. vLLM's V1 runner shares the wrapped one, which would look
    up adapters by the rows of another batch; its V2 runner does this itself.
    """
    body: Any = getattr(draft, "model", None)
    if hasattr(getattr(body, "embed_tokens", None), "base_layer"):
        body.embed_tokens = body.embed_tokens.base_layer


def _places(runner: Any, state: Any) -> tuple[list[str], list[int], list[int]]:
    """Return (requests of a forward, their numbers of tokens in it, the first position of each)."""
    if hasattr(state, "scheduler_output"):
        batch, scheduled = runner.input_batch, state.scheduler_output.num_scheduled_tokens
        requests = list(batch.req_ids)
        counts = [int(scheduled[request]) for request in requests]
        return requests, counts, batch.num_computed_tokens_cpu[: len(requests)].tolist()
    batch = state.input_batch
    starts = runner.req_states.num_computed_tokens.gpu[batch.idx_mapping].tolist()
    return list(batch.req_ids), [int(count) for count in batch.num_scheduled_tokens], starts
