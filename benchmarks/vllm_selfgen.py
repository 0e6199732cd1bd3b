"""Self-generation with vLLM against the built-in engine: `make bench NAME=vllm` writes `results/vllm-selfgen.json`.

SmolLM2's math target answers GSM8K-like questions, 32 at a time, as a generation actor does: each engine in a process
of its own, a warm-up shard first, then repeats in turns. With vLLM the target reads every answer once more for its
features; that time is part of the rate and stands beside it too.

Runs in the environment that has vLLM (`.venv-vllm`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any, Self

from benchmarks.pairs import header, write_result
from eda_service.config.job import AdaptConfig, DatasetSpec, EngineKind, SelfGenConfig, TargetSpec
from eda_service.decoding.request import SamplingParams
from eda_service.pipeline.generation_actor import vllm_writer
from eda_service.raycluster.resources import limit_threads
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import load_prompts
from eda_service.selfgen.vllm_writer import Writer
from eda_service.targets.loader import load_target

TARGET, PROMPTS, BATCH = "smollm2-135m-math", "reasoning-gym:gsm_symbolic", 32


class Timed:
    """A writer that notes how long it writes."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self.seconds = writer, 0.0

    def write(self, prompts: Mapping[str, list[int]], params: Mapping[str, SamplingParams]) -> dict[str, list[int]]:
        """The writer's answers."""
        began = time.perf_counter()
        answers = self._writer.write(prompts, params)
        self.seconds = time.perf_counter() - began
        return answers


class Worker:
    """One engine in its own process, asked for a shard at a time.

    Args:
        config: Of the job; its `selfgen.engine` says which.
        num_prompts: Of a shard.
    """

    def __init__(self, config: AdaptConfig, num_prompts: int) -> None:
        command = [sys.executable, "-m", "benchmarks.vllm_selfgen", "--worker", config.model_dump_json()]
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
        """Generate one; the first includes what is compiled."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {self._child.wait()}; its messages are above")
        found: dict[str, Any] = json.loads(line)
        return found


def work(config: AdaptConfig, num_prompts: int) -> None:
    """Load one engine; each line in is one shard, each line out its numbers."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM prints
    limit_threads(config.selfgen.threads_per_actor)
    target = load_target(config.target)
    writer = Timed(vllm_writer(config, target)) if config.selfgen.engine is EngineKind.VLLM else None
    prompts = load_prompts(config.dataset, seed=0)[:num_prompts]
    for number, _ in enumerate(sys.stdin):
        began = time.perf_counter()
        made = generate(target, prompts, config.selfgen, seed=number, writer=writer)
        seconds = time.perf_counter() - began
        tokens = sum(sample.num_answer_tokens for sample in made.samples)
        row = {"answer_tokens": tokens, "seconds": seconds, "writing_seconds": writer.seconds if writer else seconds}
        reply.write(json.dumps(row) + "\n")
        reply.flush()


def job(engine: EngineKind, arguments: argparse.Namespace) -> AdaptConfig:
    """What a job would say."""
    return AdaptConfig(
        target=TargetSpec(model=TARGET),
        dataset=DatasetSpec(source=PROMPTS, num_prompts=arguments.prompts + 16),
        selfgen=SelfGenConfig(
            engine=engine,
            batch_size=BATCH,
            max_new_tokens=arguments.max_tokens,
            threads_per_actor=arguments.threads,
        ),
    )


def rates(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Tokens a second, repeats and median."""
    found = {
        name: [round(row["answer_tokens"] / row[seconds], 1) for row in rows]
        for name, seconds in (("tokens_per_s", "seconds"), ("writing_tokens_per_s", "writing_seconds"))
    }
    return {"shards": rows, **found, "median_tokens_per_s": round(median(found["tokens_per_s"]), 1)}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", help="a job's config: run one engine for the parent")
    parser.add_argument("--prompts", type=int, default=64, help="of a shard")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="vllm-selfgen.json")
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(AdaptConfig.model_validate_json(arguments.worker), arguments.prompts)
        return
    rows: dict[EngineKind, list[dict[str, Any]]] = {engine: [] for engine in EngineKind}
    jobs = [job(engine, arguments) for engine in EngineKind]
    with Worker(jobs[0], arguments.prompts) as first, Worker(jobs[1], arguments.prompts) as second:
        for repeat in range(arguments.repeats + 1):
            for engine, worker in zip(EngineKind, (first, second), strict=True):
                row = worker.shard()
                if repeat:
                    rows[engine].append(row)
    found = {engine.value: rates(each) for engine, each in rows.items()}
    ratios = [a / b for a, b in zip(found["vllm"]["tokens_per_s"], found["eda"]["tokens_per_s"], strict=True)]
    result = header("make bench NAME=vllm") | {
        "target": TARGET,
        "prompts": PROMPTS,
        "num_prompts": arguments.prompts,
        "max_new_tokens": arguments.max_tokens,
        "batch": BATCH,
        "threads": arguments.threads,
        "temperature": SelfGenConfig().temperature,
        "engines": found,
        "vllm_over_eda": round(median(ratios), 3),
    }
    write_result(arguments.out, result)


if __name__ == "__main__":
    main()
