"""Self-generation on one core and on two: `make bench NAME=scaling` writes `benchmarks/results/scaling.json`,
and with the target inside vLLM `scaling-vllm.json`.

One process per worker, each pinned to a core of its own with one thread and one copy of the target, as Ray Data actors
on machines of one core are. Each worker has a fixed set of prompts: with two workers there is twice the work, and
efficiency is the rate of both over twice the rate of one (weak scaling). One against two, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from typing import Any

from benchmarks.workloads import header, write_result
from eda_service.config.job import AdaptConfig, DatasetSpec, EngineKind, SelfGenConfig, TargetSpec
from eda_service.config.vllm import VllmSpec

RESULTS = {EngineKind.EDA: "scaling.json", EngineKind.VLLM: "scaling-vllm.json"}
GOAL = 0.9
MATH = DatasetSpec(source="reasoning-gym:gsm_symbolic?templates=0-79", num_prompts=64)
SETTINGS = SelfGenConfig(max_new_tokens=96, batch_size=32, threads_per_actor=1)


def work(core: int, kind: EngineKind, barrier: Any, results: Any) -> None:
    """Run one worker: load, pin, generate once to warm up, wait for the others, generate."""
    os.sched_setaffinity(0, {core})
    import torch

    from eda_service.pipeline.target_engine import open_engine
    from eda_service.selfgen.generate import generate
    from eda_service.selfgen.prompts import load_prompts

    torch.set_num_threads(1)
    target = TargetSpec(model="smollm2-135m-math", vllm=VllmSpec(enforce_eager=True))
    engine = open_engine(AdaptConfig(target=target, selfgen=SETTINGS), kind, captures=())
    prompts = load_prompts(MATH, seed=0)
    generate(engine, prompts[:8], SETTINGS, seed=0)
    barrier.wait()
    began = time.monotonic()
    made = generate(engine, prompts, SETTINGS, seed=0)
    barrier.wait()  # the slowest worker ends the measurement of all
    results.put((sum(sample.num_answer_tokens for sample in made.samples), time.monotonic() - began))


def rate(cores: list[int], kind: EngineKind) -> float:
    """Measure tokens per second of one worker on each of these cores."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(len(cores)), context.Queue()
    workers = [context.Process(target=work, args=(core, kind, barrier, results)) for core in cores]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=1800) for _ in workers]
    for worker in workers:
        worker.join()
    return float(sum(tokens for tokens, _ in found) / max(seconds for _, seconds in found))


def main() -> None:
    """Repeat one and two workers, turn by turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engine", type=EngineKind, choices=list(EngineKind), default=EngineKind.EDA)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit(f"two cores are needed and this process may use {len(cores)}")
    ones, twos = [], []
    for _ in range(arguments.repeats):
        ones.append(rate(cores[:1], arguments.engine))
        twos.append(rate(cores, arguments.engine))
        sys.stderr.write(json.dumps({"one": round(ones[-1], 1), "two": round(twos[-1], 1)}) + "\n")
    ratios = [two / (2 * one) for one, two in zip(ones, twos, strict=True)]
    write_result(
        RESULTS[arguments.engine],
        {
            **header("make bench NAME=scaling"),
            "engine": arguments.engine,
            "goal": GOAL,
            "one_tokens_per_s": [round(each, 1) for each in ones],
            "two_tokens_per_s": [round(each, 1) for each in twos],
            "efficiency": round(statistics.median(ratios), 3),
            "efficiency_range": [round(min(ratios), 3), round(max(ratios), 3)],
        },
    )


if __name__ == "__main__":
    main()
