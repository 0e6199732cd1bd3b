"""Packs swapped under load: every answer must come, and be what the target alone writes.

Drafts change how fast tokens come, not which: greedy answers before, during and after a swap are equal. In bfloat16 the
batch a row stands in can flip a near tie of the target's own logits; an answer that differs counts as changed unless
the two likeliest tokens at the first difference are that near.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.bed import Bed
from benchmarks.serving_load import body_of

NUM_STREAMS = 16
NEAR_TIE = 0.5  # nats: four rounding steps of a bfloat16 logit between 16 and 32, as in `evaluation.lossless`


@dataclass
class Outcome:
    """Of all requests of one run."""

    texts: list[tuple[int, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def _ask(http: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await http.post("chat/completions", json=body)
    answer.raise_for_status()
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


async def _ask_all(url: str, bodies: list[dict[str, Any]], num_requests: int) -> Outcome:
    """Requests over the bodies in turn, so many at once."""
    found, numbers = Outcome(), iter(range(num_requests))
    async with httpx.AsyncClient(base_url=f"{url}/v1/", timeout=300, trust_env=False) as http:

        async def stream() -> None:
            for number in numbers:
                which = number % len(bodies)
                try:
                    found.texts.append((which, (await _ask(http, bodies[which]))["message"]["content"]))
                except httpx.HTTPError as error:
                    found.failures.append(repr(error))

        await asyncio.gather(*(stream() for _ in range(NUM_STREAMS)))
    return found


async def _references(url: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each answer alone, with the two likeliest tokens at every place."""
    async with httpx.AsyncClient(base_url=f"{url}/v1/", timeout=300, trust_env=False) as http:
        return [await _ask(http, {**body, "logprobs": True, "top_logprobs": 2}) for body in bodies]


def is_near_tie(reference: dict[str, Any], text: str) -> bool:
    """Whether the target had two tokens about as likely where a text leaves the reference."""
    pairs = zip(reference["message"]["content"], text, strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    place = 0
    for entry in reference["logprobs"]["content"]:
        place += len(entry["token"])
        if place > common:
            first, second = (each["logprob"] for each in entry["top_logprobs"])
            return bool(first - second <= NEAR_TIE)
    return False


def measure(bed: Bed, name: str, pack: str, messages: list[Any], num_requests: int, max_tokens: int) -> dict[str, Any]:
    """Swap between a pack and the base draft alone while requests run.

    Args:
        bed: The service.
        name: Of the deployment.
        pack: name@version.
        messages: Of each prompt.
        num_requests: In all.
        max_tokens: Of each answer.
    """
    bodies = [body_of(name, each, max_tokens) for each in messages]
    references = asyncio.run(_references(bed.url, bodies))
    swaps, stopping = [], threading.Event()

    def swap() -> None:
        while not stopping.is_set():
            wanted = None if len(swaps) % 2 == 0 else pack
            bed.switch(name, wanted)
            swaps.append(wanted)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        found = asyncio.run(_ask_all(bed.url, bodies, num_requests))
    finally:
        stopping.set()
        swapping.join()
    apart = [(which, text) for which, text in found.texts if text != references[which]["message"]["content"]]
    near = sum(is_near_tie(references[which], text) for which, text in apart)
    return {
        "num_requests": num_requests,
        "num_swaps": len(swaps),
        "num_failed": len(found.failures),
        "failures": found.failures[:3],
        "num_equal": len(found.texts) - len(apart),
        "num_near_ties": near,
        "num_changed": len(apart) - near,
    }
