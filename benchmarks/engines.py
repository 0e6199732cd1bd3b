"""The engines that `benchmarks.decode` compares, behind one interface: decode prompts one after another or as one
batch.

Ours, transformers' `generate` (plain, prompt lookup, assisted), and vLLM in its own process and environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams
from eda_service.evaluation.decode import decode_all
from eda_service.export.files.directory import read_eda_config

ROOT = Path(__file__).resolve().parents[1]
VLLM_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"


@dataclass
class Run:
    """The result of one pass over the prompts."""

    seconds: float
    token_ids: list[list[int]]
    num_rounds: int = 0
    num_accepted: int = 0
    cpu_seconds: float = 0.0

    @property
    def num_tokens(self) -> int:
        """Number of new tokens."""
        return sum(len(ids) for ids in self.token_ids)


class Contender(Protocol):
    """An engine that decodes."""

    def decode(self, prompts: Sequence[list[int]], *, temperature: float, max_tokens: int) -> Run:
        """Decode all prompts as one batch."""
        ...


class Ours:
    """The project's engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def decode(self, prompts: Sequence[list[int]], *, temperature: float, max_tokens: int) -> Run:
        """Decode all prompts as one batch; unseeded, as requests usually are."""
        params = SamplingParams(temperature=temperature, max_new_tokens=max_tokens)
        cpu = time.process_time()
        done = decode_all(self.engine, prompts, params, seeded=False)
        cpu_seconds = time.process_time() - cpu
        rounds, accepted = (
            sum(getattr(stats, name) for stats in done.stats) for name in ("num_rounds", "num_accepted_tokens")
        )
        return Run(done.seconds, done.token_ids, rounds, accepted, cpu_seconds)


class Transformers:
    """Runs `generate` one prompt at a time, with the keywords that its mode needs."""

    def __init__(self, model: Any, stop_ids: Sequence[int], **settings: Any) -> None:
        self.model, self.stop_ids, self.settings = model, list(stop_ids), settings

    @torch.inference_mode()
    def decode(self, prompts: Sequence[list[int]], *, temperature: float, max_tokens: int) -> Run:
        """Decode the prompts in turn."""
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        answers, started = [], time.perf_counter()
        for ids in prompts:
            ids_1P = torch.tensor([ids], device=self.model.device)
            out = self.model.generate(
                ids_1P,
                attention_mask=torch.ones_like(ids_1P),
                max_new_tokens=max_tokens,
                eos_token_id=self.stop_ids,
                pad_token_id=self.stop_ids[0],
                **sampling,
                **self.settings,
            )
            answers.append(out[0, len(ids) :].tolist())
        return Run(time.perf_counter() - started, answers)


class Vllm:
    """vLLM in its own environment, controlled through a pipe; it is idle between calls.

    Args:
        model_dir: Directory of the merged target.
        draft_dir: Directory of a draft's export, or None.
        num_draft_tokens: Number of drafted tokens K.
        stop_ids: Ids of the tokens that end an answer.
        log: File for its own messages.
        threads: Number of unbound threads to compute with; None: one bound to each core.
        settings: Further keywords of `vllm.LLM`.
    """

    def __init__(
        self,
        model_dir: Path,
        draft_dir: Path | None,
        num_draft_tokens: int,
        stop_ids: Sequence[int],
        log: Path,
        *,
        threads: int | None = None,
        **settings: Any,
    ) -> None:
        if draft_dir is not None:
            settings["speculative_config"] = {
                "method": read_eda_config(draft_dir).vllm_method,
                "model": str(draft_dir),
                "num_speculative_tokens": num_draft_tokens,
            }
        keywords = {"model": str(model_dir), **_VLLM_SETTINGS, **settings}
        self.stop_ids = list(stop_ids)
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [str(VLLM_PYTHON), str(ROOT / "benchmarks" / "vllm_worker.py"), json.dumps(keywords)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=vllm_environment(threads),
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait(timeout=60)
            self._log.close()
            raise RuntimeError(f"vLLM ended; see {self._log.name}")
        return line

    def ask(
        self,
        prompts: Sequence[list[int]],
        *,
        temperature: float,
        max_tokens: int,
        adapters: Sequence[str | None] | None = None,
        loras: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Decode all prompts as one batch, each with its adapter, if any; return the answer of `vllm_worker`."""
        job = {
            "prompts": list(prompts),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stop_ids": self.stop_ids,
        }
        return self._tell(job if adapters is None else job | {"adapters": list(adapters), "loras": dict(loras or {})})

    def call(self, method: str, *arguments: str) -> Any:
        """Call a method of vLLM's worker; return its result."""
        return self._tell({"call": method, "arguments": list(arguments)})["result"]

    def _tell(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._read())
        return answer

    def decode(self, prompts: Sequence[list[int]], *, temperature: float, max_tokens: int) -> Run:
        """Decode all prompts as one batch; seconds are measured by the worker."""
        answer = self.ask(prompts, temperature=temperature, max_tokens=max_tokens)
        return Run(answer["seconds"], answer["token_ids"], cpu_seconds=answer["cpu_seconds"])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._log.close()


_VLLM_SETTINGS = {
    "dtype": "bfloat16",
    "max_model_len": 1024,
    "max_num_seqs": 64,
    "enable_prefix_caching": False,
    "disable_log_stats": True,
}


def vllm_environment(threads: int | None) -> dict[str, str]:
    """Make the environment of a vLLM process: one process, and unbound threads if their number is given."""
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
        # Otherwise its engine core, a process of its own, occupies a core that the worker's threads need.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    environment.pop("OMP_NUM_THREADS", None)
    if threads is None:
        return environment
    return environment | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
