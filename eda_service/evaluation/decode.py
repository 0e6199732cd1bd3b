"""Decode a set of prompts with one engine and keep what evaluation needs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

from eda_service.decoding.engine import Engine
from eda_service.decoding.request import RequestStats, SamplingParams


@dataclass
class Decoded:
    """Answers by prompt index, their counts, and the wall-clock seconds of the decoding."""

    token_ids: list[list[int]]
    stats: list[RequestStats]
    seconds: float


def decode_all(
    engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams, *, seeded: bool = True
) -> Decoded:
    """Decode all prompts as one batch.

    Args:
        engine: Engine without requests.
        prompts: Token ids of each prompt.
        params: Sampling parameters of all requests, except for the seed.
        seeded: Whether request i has seed i; otherwise the engine chooses seeds as for requests that have none.
    """
    started = time.perf_counter()
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, dataclasses.replace(params, seed=i if seeded else None))
    tokens: list[list[int]] = [[] for _ in prompts]
    stats: dict[int, RequestStats] = {}
    while engine.has_work:
        for output in engine.step():
            index = int(output.request_id)
            tokens[index].extend(output.new_token_ids)
            stats[index] = output.stats
    return Decoded(tokens, [stats[i] for i in range(len(prompts))], time.perf_counter() - started)
