"""Self-generation with vLLM compared with the own engine: `make bench NAME=vllm` writes `results/vllm-selfgen.json`.

SmolLM2's math target answers GSM8K-like questions, 32 at a time, as a generation actor does: the project's own engine
with states, vLLM with states, and vLLM without; each in a process of its own, a warm-up shard first, then repeats in
turns. The cost of states is the second divided by the third.

Runs in the environment that has vLLM (`.venv-vllm`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from statistics import median
from typing import Any, Self

from benchmarks.workloads import header, write_result
from eda_service.config.job import AdaptConfig, DatasetSpec, EngineKind, SelfGenConfig, TargetSpec
from eda_service.config.vllm import VllmSpec
from eda_service.decoding.request import SamplingParams
from eda_service.engines.engine import AnswerRequest, TargetEngine
from eda_service.pipeline.target_engine import open_engine
from eda_service.raycluster.resources import limit_threads
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt, load_prompts

TARGET, PROMPTS, BATCH = "smollm2-135m-math", "reasoning-gym:gsm_symbolic", 32


MODES = ("eda", "vllm", "vllm_writing")


class Worker:
    """One engine in its own process, which generates a shard at a time.

    Args:
        mode: One of `MODES`.
        config: Config of the job.
        num_prompts: Number of prompts of a shard.
    """

    def __init__(self, mode: str, config: AdaptConfig, num_prompts: int) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.vllm_selfgen",
            "--mode",
            mode,
            "--worker",
            config.model_dump_json(),
        ]
        self._child = subprocess.Popen(
            [*command, "--prompts", str(num_prompts)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(60)

    def shard(self) -> dict[str, Any]:
        """Generate a shard; the first call includes compilation."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self._child.wait()}; its messages are above")
        found: dict[str, Any] = json.loads(line)
        return found


def work(config: AdaptConfig, mode: str, num_prompts: int) -> None:
    """Load one engine; each input line is one shard, each output line its numbers."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints to standard output
    limit_threads(config.selfgen.threads_per_actor)
    kind = EngineKind.EDA if mode == "eda" else EngineKind.VLLM
    engine = open_engine(config, kind, captures=None if mode == "vllm_writing" else ())
    prompts = load_prompts(config.dataset, seed=0)[:num_prompts]
    for number, _ in enumerate(sys.stdin):
        began, cpu = time.perf_counter(), time.process_time()
        tokens = shard(engine, prompts, config.selfgen, number, with_states=mode != "vllm_writing")
        row = {
            "answer_tokens": tokens,
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
        }
        reply.write(json.dumps(row) + "\n")
        reply.flush()


def shard(engine: TargetEngine, prompts: list[Prompt], settings: SelfGenConfig, seed: int, *, with_states: bool) -> int:
    """Answer one shard; return the number of tokens."""
    if with_states:
        return sum(sample.num_answer_tokens for sample in generate(engine, prompts, settings, seed=seed).samples)
    params = SamplingParams(
        temperature=settings.temperature, top_p=settings.top_p, max_new_tokens=settings.max_new_tokens, seed=seed
    )
    rendered = {each.id: AnswerRequest(each.token_ids(engine.ends.tokenizer), params) for each in prompts}
    room = settings.max_prompt_tokens + settings.max_new_tokens + 1
    answers = engine.answer(rendered, batch_size=settings.batch_size, max_tokens=room)
    return sum(len(answer.token_ids) for answer in answers.values())


def job(arguments: argparse.Namespace) -> AdaptConfig:
    """Make the config of a job."""
    return AdaptConfig(
        target=TargetSpec(model=TARGET, vllm=VllmSpec(enforce_eager=True)),  # as the CPU build runs adapters anyway
        dataset=DatasetSpec(source=PROMPTS, num_prompts=arguments.prompts + 16),
        selfgen=SelfGenConfig(
            batch_size=BATCH, max_new_tokens=arguments.max_tokens, threads_per_actor=arguments.threads
        ),
    )


def rates(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return tokens per second, repeats and median."""
    found = {
        name: [round(row["answer_tokens"] / row[seconds], 1) for row in rows]
        for name, seconds in (("tokens_per_s", "seconds"), ("tokens_per_cpu_s", "cpu_seconds"))
    }
    medians = {f"median_{name}": round(median(values), 1) for name, values in found.items()}
    return {"shards": rows, **found, **medians}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", help="a job's config: run one engine for the parent")
    parser.add_argument("--mode", choices=MODES, default="eda", help="of the worker")
    parser.add_argument("--prompts", type=int, default=64, help="of a shard")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="vllm-selfgen.json")
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(AdaptConfig.model_validate_json(arguments.worker), arguments.mode, arguments.prompts)
        return
    rows: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    with ExitStack() as stack:
        workers = {mode: stack.enter_context(Worker(mode, job(arguments), arguments.prompts)) for mode in MODES}
        for repeat in range(arguments.repeats + 1):
            for mode in MODES if repeat % 2 else MODES[::-1]:
                row = workers[mode].shard()
                if repeat:
                    rows[mode].append(row)
    found = {mode: rates(each) for mode, each in rows.items()}

    def over(above: str, below: str, unit: str) -> float:
        pairs = zip(found[above][unit], found[below][unit], strict=True)
        return round(median(a / b for a, b in pairs), 3)

    result = header("make bench NAME=vllm") | {
        "target": TARGET,
        "prompts": PROMPTS,
        "num_prompts": arguments.prompts,
        "max_new_tokens": arguments.max_tokens,
        "batch": BATCH,
        "threads": arguments.threads,
        "temperature": SelfGenConfig().temperature,
        "engines": found,
        "vllm_over_eda": over("vllm", "eda", "tokens_per_s"),
        "states_over_writing": over("vllm", "vllm_writing", "tokens_per_s"),
        "states_over_writing_cpu": over("vllm", "vllm_writing", "tokens_per_cpu_s"),
    }
    write_result(arguments.out, result)


if __name__ == "__main__":
    main()
