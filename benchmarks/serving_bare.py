"""The engine of a replica without the service, in a process of its own: tokens per second of a closed loop.

Base target, adapter, pack, policy, batch and threads are a replica's; the prompts are token ids. HTTP, Serve, text and
the API are left out. `EDA_HOME` is the home with the packs; one JSON object is written to standard output.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time

import torch

from api.endpoint.engines.base_group import BaseGroup, serving_chain
from benchmarks.serving_load import WARM_UP_S
from benchmarks.serving_prompts import sums
from eda_service.config.deployment import EngineLimits
from eda_service.config.job import TargetSpec
from eda_service.decoding.engine import Engine
from eda_service.decoding.policy import Adaptive
from eda_service.decoding.request import SamplingParams
from eda_service.raycluster.resources import limit_kernel_cache
from eda_service.raycluster.serve_plan import ServedModel
from eda_service.targets.chat.chat import render_prompt


def load(target: str, base_draft: str, pack: str) -> tuple[Engine, list[list[int]]]:
    """Make an engine as a replica makes it for a model that is alone, its adapter merged, and prompts."""
    model = ServedModel(name="only", target={"model": target}, base_draft=base_draft, pack=pack)
    group = BaseGroup(TargetSpec(model=target))
    policy = Adaptive(read_confidence=group.target.device.type == "cpu")
    chain = serving_chain(model)
    usual = EngineLimits()
    engine = Engine(
        group.target, num_draft_tokens=chain, policy=policy, max_batch=usual.batch, max_tokens=usual.context
    )
    variant = group.load(model, None)
    engine.add_variant("only", adapter=variant.adapter, decoding_draft=variant.decoding_draft)
    return engine, [render_prompt(group.target.tokenizer, messages) for messages in sums()]


def closed_loop(engine: Engine, prompts: list[list[int]], num_streams: int, max_tokens: int, seconds: float) -> float:
    """Measure tokens per second with this number of requests at all times."""
    params = SamplingParams(max_new_tokens=max_tokens)
    waiting = enumerate(itertools.cycle(prompts))
    start = time.perf_counter() + WARM_UP_S
    now, num_tokens = 0.0, 0
    for _ in range(num_streams):
        _submit(engine, waiting, params)
    while now < start + seconds:
        for output in engine.step():
            if output.finish_reason is not None:
                _submit(engine, waiting, params)
            num_tokens += len(output.new_token_ids) * (start <= now)
        now = time.perf_counter()
    return num_tokens / seconds


def _submit(engine: Engine, waiting: enumerate[list[int]], params: SamplingParams) -> None:
    number, ids = next(waiting)
    engine.submit(str(number), ids, params, variant="only")


def main() -> None:
    """Load, run each number of streams, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--base-draft", required=True)
    parser.add_argument("--pack", required=True)
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    limit_kernel_cache()
    torch.set_num_threads(options.threads)
    engine, prompts = load(options.target, options.base_draft, options.pack)
    found = closed_loop(engine, prompts, options.streams, options.max_tokens, options.seconds)
    sys.stdout.write(json.dumps({"tokens_per_s": found}) + "\n")


if __name__ == "__main__":
    main()
