"""vLLM as the engine of a job: one pass gives answers and states, and this process reads no layer of the target.

vLLM's engine runs inside the process that holds this object, so that nothing of it outlives the actor. With several
ranks its workers are processes of their own, which end with this one. On vLLM's CPU build a request's seed can end the
engine (0.32), so there all requests draw from one stream, and a shard that is generated again has other answers if the
temperature is above 0.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eda_service.config.vllm import VllmSpec
from eda_service.decoding.admission import check_request
from eda_service.decoding.request import SamplingParams
from eda_service.decoding.vllm_shaping import vllm_shaping
from eda_service.engines.engine import Answer, AnswerRequest
from eda_service.engines.vllm_blocks import load_blocks
from eda_service.engines.vllm_environment import CAPTURES, prepare_cpu, require_vllm, tie_children
from eda_service.errors import EdaError, RunError, TargetIncompatibleError, reason_of
from eda_service.targets.adapters.check import read_config
from eda_service.targets.ends import TargetEnds
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.states import TargetStates

IN_PROCESS = ("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
_WORKER = "eda_service.engines.vllm_worker.CapturingWorker"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The largest ranks of adapters that vLLM can be configured for."""


class EngineLostError(RunError):
    """vLLM has ended, or no longer answers; this process must end too, and its work is repeated."""

    code = "engine_failed"
    retryable = True


@dataclass(frozen=True)
class VllmDraft:
    """A draft exported for vLLM, which vLLM drafts with.

    Attributes:
        directory: Directory of the export.
        method: vLLM's name of the draft's kind.
        num_draft_tokens: Number of tokens K of its chains.
    """

    directory: Path
    method: str
    num_draft_tokens: int


@dataclass(frozen=True)
class DraftCounts:
    """vLLM's own counters of drafting.

    Attributes:
        num_rounds: Number of verifications.
        num_accepted: Drafted tokens that were accepted, by position.
    """

    num_rounds: int
    num_accepted: tuple[int, ...]

    def since(self, before: DraftCounts) -> DraftCounts:
        """Subtract earlier counters."""
        pairs = zip(self.num_accepted, before.num_accepted or (0,) * len(self.num_accepted), strict=True)
        return DraftCounts(self.num_rounds - before.num_rounds, tuple(now - then for now, then in pairs))


class VllmEngine:
    """A target inside vLLM; see `TargetEngine`.

    Args:
        ends: The target's metadata, embedding and head.
        settings: Settings of vLLM.
        max_tokens: Largest sum of prompt and answer tokens of a request.
        batch_size: Number of requests decoded together.
        captures: Layers whose states can be asked for beside the head's input; empty: only the head's input; None: no
            states.
        threads: Number of CPU threads of a rank.
        seed: Seed of the single random stream on a CPU.
        draft: Draft that vLLM drafts with; it then returns no states. None: vLLM decodes without a draft.

    Raises:
        EngineMissingError: vLLM is not installed here.
        TargetIncompatibleError: vLLM cannot load the target or its adapter.
    """

    def __init__(
        self,
        ends: TargetEnds,
        settings: VllmSpec,
        *,
        max_tokens: int,
        batch_size: int,
        captures: Sequence[int] | None,
        threads: int,
        seed: int,
        draft: VllmDraft | None = None,
    ) -> None:
        require_vllm("where Ray's workers run", param="target.engine")
        self._ends, self._captures = ends, None if captures is None else tuple(sorted(set(captures)))
        # An engine over several machines is driven by a process that has no GPU of its own.
        self._on_gpu = torch.cuda.is_available() or settings.nodes > 1
        self._executor = "uni" if settings.tensor_parallel_size == 1 else "ray" if settings.nodes > 1 else "mp"
        self._max_tokens = min(max_tokens, ends.max_context)
        if not self._on_gpu:
            prepare_cpu(kv_cache_gib=settings.kv_cache_gib, threads=threads)
        tie_children()
        os.environ.update([IN_PROCESS])
        self._scratch = tempfile.TemporaryDirectory(prefix="eda-states-", dir=_memory_dir())
        found = resolve_target(ends.spec)
        self._adapter = None if found.adapter_dir is None else _adapter(found.adapter_dir)
        self._draft = draft
        self._llm = self._start(found.model_dir, found.adapter_dir, settings, batch_size, seed)

    @property
    def ends(self) -> TargetEnds:
        """The target's metadata, embedding and head, read from its files."""
        return self._ends

    def without_adapter(self, ends: TargetEnds) -> VllmEngine:
        """Return an engine over the same vLLM that answers without the adapter.

        Args:
            ends: Metadata, embedding and head of the target without its adapter.
        """
        base = copy.copy(self)
        base._ends, base._adapter = ends, None
        return base

    def answer(
        self,
        requests: Mapping[str, AnswerRequest],
        *,
        batch_size: int,
        max_tokens: int,
        captures: Sequence[int] | None = None,
        on_answer: Callable[[int], None] | None = None,
    ) -> dict[str, Answer]:
        """Answer all requests; `batch_size` is at most the one of the start."""
        assert captures is None or set(captures) <= set(self._captures or ()), "layers are chosen when vLLM starts"
        assert captures is None or self._captures is not None, "it was started to give no states"
        refused: dict[str, Answer] = {}
        taken: dict[str, AnswerRequest] = {}
        room = min(max_tokens, self._max_tokens)
        for name, request in requests.items():
            try:
                check_request(request.prompt_ids, request.params, vocab_size=self._ends.vocab_size, max_tokens=room)
            except EdaError as error:
                refused[name] = Answer([], "error", error=error.message)
            else:
                taken[name] = request
        outputs, states = self._run(list(taken.values()), keep=captures is not None)
        answers = {
            name: self._answer(request, output, states, captures)
            for (name, request), output in zip(taken.items(), outputs, strict=True)
        }
        if on_answer is not None:
            on_answer(len(requests))
        return {name: answers.get(name) or refused[name] for name in requests}

    def counts(self) -> DraftCounts:
        """Counters of drafting since the start."""
        rounds, accepted = 0, (0,) * (0 if self._draft is None else self._draft.num_draft_tokens)
        for metric in self._llm.get_metrics():
            if metric.name == "vllm:spec_decode_num_drafts":
                rounds = int(metric.value)
            elif metric.name == "vllm:spec_decode_num_accepted_tokens_per_pos":
                accepted = tuple(int(value) for value in metric.values)
        return DraftCounts(rounds, accepted)

    def _run(self, requests: Sequence[AnswerRequest], *, keep: bool) -> tuple[list[Any], dict[str, Tensor]]:
        """Return (vLLM's outputs, states by vLLM's number of the request).

        Raises:
            EngineLostError: vLLM ended; it raises errors of many types for this, some of which look like programming
                errors.
        """
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        params = [self._params(request.params) for request in requests]
        try:
            if self._captures is not None:
                self._llm.collective_rpc("keep_states", args=(keep,))
            outputs = self._llm.generate(prompts, params, use_tqdm=False, lora_request=self._adapter)
            return outputs, self._take() if keep else {}
        except Exception as error:
            raise EngineLostError(
                f"vLLM ended while it answered {len(requests)} requests: {reason_of(error)}"
            ) from error

    def _answer(
        self, request: AnswerRequest, output: Any, states: Mapping[str, Tensor], captures: Sequence[int] | None
    ) -> Answer:
        made = output.outputs[0]
        token_ids, reason = list(made.token_ids), "stop" if made.finish_reason == "stop" else "length"
        if captures is None:
            return Answer(token_ids, reason)
        found_TC = states.get(output.request_id)
        needed = len(request.prompt_ids) + len(token_ids) - 1
        if found_TC is None or len(found_TC) < needed:
            kept = 0 if found_TC is None else len(found_TC)
            return Answer([], "error", error=f"vLLM gave states of {kept} tokens, {needed} were forwarded")
        head_in, *layers = found_TC[:needed].split(self._ends.head_weight.shape[1], dim=-1)
        by_layer = dict(zip(self._captures or (), layers, strict=True))
        return Answer(token_ids, reason, TargetStates.of(head_in, [by_layer[each] for each in captures]))

    def _take(self) -> dict[str, Tensor]:
        """Return states by vLLM's number of the request, of all requests since the last call."""
        if self._executor == "mp":
            path = Path(self._scratch.name) / "states.safetensors"
            self._llm.collective_rpc("take_states", args=(str(path),))
            found = load_blocks(path)
        else:
            found = next((each for each in self._llm.collective_rpc("take_states") if each), {})
        return {name.rsplit("-", 1)[0]: states for name, states in found.items()}

    def _start(self, model_dir: Path, adapter_dir: Path | None, settings: VllmSpec, batch_size: int, seed: int) -> Any:
        from vllm import LLM

        more: dict[str, Any] = {}
        if self._on_gpu:
            more["gpu_memory_utilization"] = settings.gpu_memory_fraction
        if adapter_dir is not None:
            more |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _rank(adapter_dir)}
        if self._captures is not None:
            more["additional_config"] = {CAPTURES: self._captures}
        if self._draft is not None:
            more["speculative_config"] = {
                "method": self._draft.method,
                "model": str(self._draft.directory),
                "num_speculative_tokens": self._draft.num_draft_tokens,
            }
        try:
            return LLM(
                model=str(model_dir),
                dtype=str(self._ends.dtype).removeprefix("torch."),
                max_model_len=self._max_tokens,
                max_num_seqs=batch_size,
                enforce_eager=settings.enforce_eager,
                seed=seed,
                tensor_parallel_size=settings.tensor_parallel_size,
                distributed_executor_backend=self._executor,
                worker_cls=_WORKER,
                enable_prefix_caching=False,  # tokens from the prefix cache have no states
                disable_log_stats=self._draft is None,
                **more,
            )
        except (ValueError, TypeError, NotImplementedError) as error:
            raise TargetIncompatibleError(
                f"vLLM does not load {self._ends.spec.model}: {reason_of(error)}; name a model that it supports, or "
                "set target.engine to eda",
                param="target.engine",
            ) from error

    def _params(self, params: SamplingParams) -> Any:
        from vllm import SamplingParams as Made

        own_stops = frozenset[int]() if params.ignore_eos else self._ends.stop_token_ids
        return Made(
            **vllm_shaping(params, self._ends.vocab_size),
            max_tokens=params.max_new_tokens,
            min_tokens=params.min_new_tokens,
            seed=params.seed if self._on_gpu else None,
            stop_token_ids=sorted(own_stops | params.stop_token_ids),
            ignore_eos=params.ignore_eos,
            detokenize=False,
        )


def _adapter(adapter_dir: Path) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("tuned", 1, str(adapter_dir))


def _rank(adapter_dir: Path) -> int:
    """Return the largest adapter rank that vLLM must be configured for.

    Raises:
        TargetIncompatibleError: vLLM does not support the adapter.
    """
    config = read_config(adapter_dir)
    patterns = config.get("rank_pattern") or {}
    largest = max([int(config["r"]), *(int(rank) for rank in patterns.values())])
    odd = "DoRA" if config.get("use_dora") else f"rank {largest}" if largest > _RANKS[-1] else None
    if odd is not None:
        raise TargetIncompatibleError(
            f"{adapter_dir} is an adapter of {odd}, which vLLM does not add to a model it serves; merge it into the "
            "model and name that as target.model, or set target.engine to eda",
            param="target.adapter",
        )
    return next(rank for rank in _RANKS if rank >= largest)


def _memory_dir() -> str | None:
    """Return a directory in memory for files between processes of this machine; None if there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
