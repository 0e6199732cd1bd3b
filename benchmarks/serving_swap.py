"""Packs swapped under load: every answer must arrive, and equal the answer to its prompt without other load.

Drafts change the speed of tokens, not the tokens: greedy answers before, during and after a swap are equal. The target
is served in float32, where that holds bit for bit whatever the other rows of the batch are; in bfloat16 near ties of
the target's own logits depend on the batch.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.bench_service import BenchService
from benchmarks.serving_load import body_of, quantiles

NUM_STREAMS = 16


@dataclass
class Outcome:
    """The results of all requests of one run."""

    texts: list[tuple[int, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def _ask(http: httpx.AsyncClient, body: dict[str, Any]) -> str:
    answer = await http.post("chat/completions", json=body)
    answer.raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


async def _ask_all(url: str, bodies: list[dict[str, Any]], num_requests: int) -> Outcome:
    """Send requests over the bodies in turn, this many at once."""
    found, numbers = Outcome(), iter(range(num_requests))
    async with httpx.AsyncClient(base_url=f"{url}/v1/", timeout=300, trust_env=False) as http:

        async def stream() -> None:
            for number in numbers:
                which, began_s = number % len(bodies), time.monotonic()
                try:
                    found.texts.append((which, await _ask(http, bodies[which])))
                    found.seconds.append(time.monotonic() - began_s)
                except httpx.HTTPError as error:
                    found.failures.append(repr(error))

        await asyncio.gather(*(stream() for _ in range(NUM_STREAMS)))
    return found


async def _alone(url: str, bodies: list[dict[str, Any]]) -> list[str]:
    """Get each answer without other load."""
    async with httpx.AsyncClient(base_url=f"{url}/v1/", timeout=300, trust_env=False) as http:
        return [await _ask(http, body) for body in bodies]


def measure(
    bench_service: BenchService, name: str, pack: str, messages: list[Any], num_requests: int, max_tokens: int
) -> dict[str, Any]:
    """Swap between a pack and the base draft alone while requests run.

    Args:
        bench_service: Running service.
        name: Name of the deployment.
        pack: Pack as name@version.
        messages: Messages of each prompt.
        num_requests: Number of all requests.
        max_tokens: Largest number of tokens of an answer.
    """
    bodies = [body_of(name, each, max_tokens) for each in messages]
    alone = asyncio.run(_alone(bench_service.url, bodies))
    swaps, stopping = [], threading.Event()

    def swap() -> None:
        while not stopping.is_set():
            wanted = None if len(swaps) % 2 == 0 else pack
            bench_service.switch(name, wanted)
            swaps.append(wanted)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        found = asyncio.run(_ask_all(bench_service.url, bodies, num_requests))
    finally:
        stopping.set()
        swapping.join()
    num_equal = sum(text == alone[which] for which, text in found.texts)
    return {
        "num_requests": num_requests,
        "num_swaps": len(swaps),
        "num_failed": len(found.failures),
        "failures": found.failures[:3],
        "num_equal": num_equal,
        "num_changed": len(found.texts) - num_equal,
        "answer_ms": quantiles(found.seconds) | {"max": round(1e3 * max(found.seconds, default=0.0), 2)},
    }
