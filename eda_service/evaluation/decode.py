"""Decode a set of prompts with one engine and keep what evaluation needs."""

from __future__ import annotations

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


def decode_all(engine: Engine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> Decoded:
    """Decode all prompts as one batch; request i has seed i where the temperature is above 0."""
    started = time.perf_counter()
    for i, ids in enumerate(prompts):
        engine.submit(
            str(i),
            ids,
            SamplingParams(
                temperature=params.temperature, top_p=params.top_p, max_new_tokens=params.max_new_tokens, seed=i
            ),
        )
    tokens: list[list[int]] = [[] for _ in prompts]
    stats: dict[int, RequestStats] = {}
    while engine.has_work:
        for output in engine.step():
            index = int(output.request_id)
            tokens[index].extend(output.new_token_ids)
            stats[index] = output.stats
    return Decoded(tokens, [stats[i] for i in range(len(prompts))], time.perf_counter() - started)
