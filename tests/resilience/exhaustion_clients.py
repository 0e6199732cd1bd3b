"""Clients that use up what a service has: slow ones, many that listen, bodies without end, prompts that grow.

Each function returns counts; what is expected of them is `tests.resilience.exhaustion`'s to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import httpx

_START = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\ncontent-type: application/json\r\n"
_HEADERS_END_S, _BODIES_END_S = 60.0, 90.0
_OPENING_AT_ONCE = 50


async def slow_clients(url: str, count: int) -> dict[str, Any]:
    """Half send a header a byte at a time, half a body; meanwhile the service is asked how it is."""
    waited = asyncio.gather(*(_slow_client(url, of_body=n % 2 == 1) for n in range(count)))
    latencies = await _health_while(url, waited)
    ended = await waited
    return {
        "num_clients": count,
        "num_ended_by_service": sum(each is not None for each in ended),
        "longest_s": round(max((each for each in ended if each is not None), default=0.0), 1),
        **latencies,
    }


async def _slow_client(url: str, *, of_body: bool) -> float | None:
    """Seconds until the service ended the connection; None: it did not."""
    parts, began = httpx.URL(url), time.monotonic()
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    start = _START.format(path="/v1/chat/completions")
    writer.write((start + ("content-length: 100000\r\n\r\n{" if of_body else "x: ")).encode())
    limit_s = _BODIES_END_S if of_body else _HEADERS_END_S
    try:
        while time.monotonic() - began < limit_s:
            writer.write(b" ")
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                if not await asyncio.wait_for(reader.read(4096), 1.0):
                    return time.monotonic() - began
    except ConnectionError:
        return time.monotonic() - began
    finally:
        writer.close()
    return None


async def _health_while(url: str, work: asyncio.Future[Any]) -> dict[str, Any]:
    latencies, failed = [], 0
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        while not work.done():
            began = time.monotonic()
            try:
                failed += not (await http.get(f"{url}/health")).is_success
            except httpx.HTTPError:
                failed += 1
            latencies.append(time.monotonic() - began)
            await asyncio.sleep(0.5)
    return {
        "num_health_checks": len(latencies),
        "num_health_failed": failed,
        "slowest_health_s": round(max(latencies, default=0.0), 2),
    }


async def event_streams(url: str, job_id: str, count: int, end: Any) -> dict[str, Any]:
    """Open streams of one job's events, end the job when all are open, and count who was told.

    Args:
        url: Of the API.
        job_id: A queued job.
        count: Streams.
        end: Called to end the job.
    """
    opened, told = asyncio.Event(), 0
    num_open = 0
    failed: Counter[str] = Counter()
    opening = asyncio.Semaphore(_OPENING_AT_ONCE)
    limits = httpx.Limits(max_connections=None)

    async def listen(http: httpx.AsyncClient) -> None:
        nonlocal told, num_open
        text = b""
        try:
            headers = {"accept": "text/event-stream"}
            async with AsyncExitStack() as held:
                async with opening:
                    request = http.stream("GET", f"{url}/v1/adaptations/{job_id}/events", headers=headers)
                    stream = await held.enter_async_context(request)
                    chunks = stream.aiter_raw()
                    text = await anext(chunks, b"")
                if not stream.is_success:
                    failed[str(stream.status_code)] += 1
                    return
                num_open += 1
                if num_open >= count:
                    opened.set()
                async for chunk in chunks:
                    text = (text + chunk)[-65536:]
        except httpx.HTTPError as error:
            failed[type(error).__name__] += 1
            return
        told += b"job_cancelled" in text

    began = time.monotonic()
    async with httpx.AsyncClient(timeout=180, limits=limits, trust_env=False) as http:
        waited = asyncio.gather(*(listen(http) for _ in range(count)))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(opened.wait(), 240)
        opened_s = time.monotonic() - began
        await asyncio.to_thread(end)
        latencies = await _health_while(url, waited)
        await waited
    return {
        "num_streams": count,
        "num_opened": num_open,
        "failed": dict(failed),
        "num_told_the_end": told,
        "opened_s": round(opened_s, 1),
        "ended_s": round(time.monotonic() - began - opened_s, 1),
        **latencies,
    }


def endless_body(url: str, num_bytes: int) -> dict[str, Any]:
    """A chunked body; how much of it was read, and what was answered."""
    parts = httpx.URL(url)
    chunk, sent, answer = b"100000\r\n" + b" " * (1 << 20) + b"\r\n", 0, b""
    with socket.create_connection((parts.host, parts.port or 80), timeout=60) as opened:
        opened.sendall((_START.format(path="/v1/adaptations") + "transfer-encoding: chunked\r\n\r\n").encode())
        opened.setblocking(False)
        deadline = time.monotonic() + 120
        with contextlib.suppress(ConnectionError):
            while sent < num_bytes and time.monotonic() < deadline:
                with contextlib.suppress(BlockingIOError):
                    sent += opened.send(chunk[sent % len(chunk) :])
                with contextlib.suppress(BlockingIOError):
                    answer += opened.recv(65536)
    return {"num_bytes_offered": num_bytes, "num_bytes_taken": sent, "status": int(answer[9:12] or b"0")}


async def bomb_prompts(url: str, model: str) -> dict[str, Any]:
    """Packed bodies, and prompts as long as a body may be, of few different characters."""
    texts = [
        "a" * 1_000_000,
        "a " * 500_000,
        "\n" * 400_000,
        "<|im_end|>" * 90_000,
        "\U0001f600" * 80_000,
        "(" * 900_000,
    ]
    bodies: list[dict[str, Any]] = [{"model": model, "messages": [{"role": "user", "content": text}]} for text in texts]
    bodies += [{"model": model, "prompt": text, "max_tokens": 1} for text in texts]
    bodies.append({"model": model, "messages": [{"role": "user", "content": "x"}] * 1024, "max_tokens": 1})
    bodies.append({"model": model, "prompt": ["x"] * 64, "n": 16, "max_tokens": 1})
    statuses: dict[str, int] = {}
    async with httpx.AsyncClient(timeout=120, trust_env=False) as http:

        async def send(**request: Any) -> None:
            try:
                status = str((await http.post(**request)).status_code)
            except httpx.HTTPError as error:
                status = type(error).__name__
            statuses[status] = statuses.get(status, 0) + 1

        began = time.monotonic()
        work = [send(url=f"{url}/v1/{_path(body)}", json=body) for body in bodies]
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        packed = b"\x1f\x8b\x08" + bytes(1000)
        work += [send(url=f"{url}/v1/chat/completions", content=packed, headers=headers) for _ in range(8)]
        waited = asyncio.gather(*work)
        latencies = await _health_while(url, waited)
        await waited
    return {
        "num_requests": len(work),
        "by_status": dict(sorted(statuses.items())),
        "seconds": round(time.monotonic() - began, 1),
        **latencies,
    }


def _path(body: dict[str, Any]) -> str:
    return "chat/completions" if "messages" in body else "completions"
