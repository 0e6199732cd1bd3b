"""Streams of chat requests to an endpoint, in a closed loop, and the times that their readers observed.

A chunk holds the tokens of a round, often several: an inter-token time is the gap between two chunks divided by the
tokens of the later one, counted once for each of them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

WARM_UP_S = 5.0


@dataclass
class Seen:
    """The observations of all readers together.

    Attributes:
        num_tokens: Number of tokens received during the measurement.
        errors: Messages of errors.
    """

    first_token_s: list[float] = field(default_factory=list)
    inter_token_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_answers: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return counts, quantiles in milliseconds, and tokens per second."""
        return {
            "num_answers": self.num_answers,
            "num_errors": len(self.errors),
            "errors": self.errors[:3],
            "tokens_per_s": self.num_tokens / self.seconds,
            "first_token_ms": quantiles(self.first_token_s),
            "inter_token_ms": quantiles(self.inter_token_s),
        }


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Compute median and 99th percentile, in milliseconds."""
    ordered = sorted(seconds) or [float("nan")]
    return {f"p{p}": round(1e3 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)], 2) for p in (50, 99)}


def body_of(model: str, messages: Any, max_tokens: int, **more: Any) -> dict[str, Any]:
    """Make a greedy chat request."""
    return {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0, **more}


async def _read(http: httpx.AsyncClient, body: dict[str, Any], seen: Seen, is_counted: Callable[[], bool]) -> None:
    """Read one streamed answer."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    began, last, so_far, finish_reason = time.perf_counter(), 0.0, 0, None
    async with http.stream(
        "POST", "chat/completions", json={**body, "stream": True, "stream_options": options}
    ) as answer:
        if answer.status_code != httpx.codes.OK:
            await answer.aread()
            seen.errors.append(f"{answer.status_code} {answer.text[:200]}")
            return
        async for line in answer.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk, now = json.loads(line.removeprefix("data: ")), time.perf_counter()
            if "error" in chunk:
                seen.errors.append(str(chunk["error"]))
                return
            new = chunk["usage"]["completion_tokens"] - so_far
            if is_counted() and new:
                seen.num_tokens += new
                if so_far:
                    seen.inter_token_s += [(now - last) / new] * new
                else:
                    seen.first_token_s.append(now - began)
            finish_reason = next((each["finish_reason"] for each in chunk["choices"]), None) or finish_reason
            last, so_far = now if new else last, so_far + new
    if finish_reason is None:
        seen.errors.append("the stream ended without a finish_reason")
    seen.num_answers += is_counted()


async def _closed_loop(url: str, bodies: Iterator[dict[str, Any]], num_streams: int, seconds: float) -> Seen:
    seen, start = Seen(), time.perf_counter() + WARM_UP_S
    end = start + seconds
    limits = httpx.Limits(max_connections=num_streams, max_keepalive_connections=num_streams)

    def is_counted() -> bool:
        return start <= time.perf_counter() < end

    async with httpx.AsyncClient(base_url=f"{url}/v1/", timeout=300, limits=limits, trust_env=False) as http:

        async def stream() -> None:
            while time.perf_counter() < end:
                try:
                    await _read(http, next(bodies), seen, is_counted)
                except httpx.HTTPError as error:
                    seen.errors.append(repr(error))

        await asyncio.gather(*(stream() for _ in range(num_streams)))
    seen.seconds = seconds
    return seen


def closed_loop(url: str, bodies: Iterator[dict[str, Any]], num_streams: int, seconds: float) -> Seen:
    """Keep this number of streams running; a stream sends its next request when its answer has ended.

    Args:
        url: Address of the API, without `/v1`.
        bodies: Endless request bodies.
        num_streams: Number of streams at the same time.
        seconds: Seconds to measure, after a warm-up; answers that run at the end are read but no longer counted.
    """
    return asyncio.run(_closed_loop(url, bodies, num_streams, seconds))
