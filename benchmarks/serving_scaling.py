"""Replicas that are added because rounds take too long, and removed while streams run: no request may fail.

On one machine another replica shares the cores of the first, so this shows that scaling happens and harms nothing, not
that it is faster.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.bench_service import BenchService
from benchmarks.serving_load import Seen, closed_loop
from eda_service.client import Client

ROUND_MS = 10  # below the time of a round here, so that a batch of any size adds replicas
SECONDS = 200.0
_SAMPLE_S = 1.0


def measure(
    bench_service: BenchService, name: str, bodies: Iterator[dict[str, Any]], num_streams: int
) -> dict[str, Any]:
    """Let a deployment scale from one replica to two under load, then remove one.

    Args:
        bench_service: Running service.
        name: Name of the deployment.
        bodies: Endless requests for it.
        num_streams: Number of streams at the same time; fewer than a full batch, so that the queue alone adds no
            replica.
    """
    seen: list[Seen] = []
    load = threading.Thread(target=lambda: seen.append(closed_loop(bench_service.url, bodies, num_streams, SECONDS)))
    with Client(bench_service.url) as client:
        client.deployments.update(name, replicas={"min": 1, "max": 2, "round_ms": ROUND_MS})
        load.start()
        up_s = _seconds_until(client, name, 2, load)
        client.deployments.update(name, replicas=1)
        down_s = _seconds_until(client, name, 1, load)
        load.join()
    return {
        "num_streams": num_streams,
        "round_ms": ROUND_MS,
        "seconds_to_two_replicas": up_s,
        "seconds_back_to_one": down_s,
        "num_answers": seen[0].num_answers,
        "num_errors": len(seen[0].errors),
        "errors": seen[0].errors[:3],
    }


def _seconds_until(client: Client, name: str, replicas: int, load: threading.Thread) -> float | None:
    began = time.monotonic()
    while client.deployments.get(name).replicas.running != replicas:
        if not load.is_alive():
            return None
        time.sleep(_SAMPLE_S)
    return round(time.monotonic() - began, 1)
