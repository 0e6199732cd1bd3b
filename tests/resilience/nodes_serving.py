"""Two replicas on two machines under steady questions while one machine dies; see `tests.resilience.nodes`."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from eda_service.client import Client
from tests.resilience.nodes_faults import TIMEOUT_S, Fault, heal, strike

QUESTION = [{"role": "user", "content": "the other one and the user"}]
SERVE_FOR_S = 120.0


@dataclass
class Answers:
    """What clients saw, in order of time: (seconds since the start, the text, or None for an error)."""

    rows: list[tuple[float, str | None]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def asking(url: str) -> Iterator[tuple[Answers, float]]:
    """Four clients that ask on; yields what they see and the monotonic time that it counts from."""
    answers, stop, began = Answers(), threading.Event(), time.monotonic()
    clients = [threading.Thread(target=_ask_on, args=(url, answers, began, stop), daemon=True) for _ in range(4)]
    for each in clients:
        each.start()
    try:
        yield answers, began
    finally:
        stop.set()
        for each in clients:
            each.join(30)


def _ask_on(url: str, answers: Answers, began: float, stop: threading.Event) -> None:
    """Ask the same question again and again, as a client with a timeout of ten seconds and no retries does."""
    body = {"model": "m", "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    while not stop.is_set():
        text = None
        try:
            answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=10)
            if answer.status_code == httpx.codes.OK:
                text = answer.json()["choices"][0]["message"]["content"]
            else:
                answers.errors.append(str(answer.json()["error"]["code"]))
        except httpx.HTTPError as error:
            answers.errors.append(type(error).__name__)
        answers.rows.append((time.monotonic() - began, text))
        stop.wait(0.1)


def serve(target_dir: Path, cluster: Any, fault: Fault) -> dict[str, Any]:
    """Two replicas on two machines under steady questions, and a fault on one machine."""
    with Client(cluster.url) as client:
        model = {"model": str(target_dir), "dtype": "float32", "base_draft": "tiny@1"}
        client.deployments.create({**model, "name": "m", "replicas": 2})  # or it is there, of the run before
        wait_replicas(client)
        before = sorted(cluster.where("replica"))
        with asking(cluster.url) as (answers, began):
            time.sleep(10)
            struck, struck_s = strike(cluster, fault), time.monotonic() - began
            time.sleep(SERVE_FOR_S)
            recovered_s = wait_replicas(client)
    assert struck is not None
    after = sorted(cluster.where("replica"))
    heal(cluster, struck, killed=fault.how == "kill")
    return {
        "machine": struck,
        "replicas_before": before,
        "replicas_after": after,
        **judge(answers, struck_s),
        "second_replica_again_s": round(SERVE_FOR_S + recovered_s, 1),
    }


def judge(answers: Answers, struck_s: float) -> dict[str, Any]:
    """Numbers of one serving run."""
    good = [at for at, text in sorted(answers.rows) if text is not None]
    texts = {text for _, text in answers.rows if text is not None}
    bad_after = [at for at, text in answers.rows if text is None and at > struck_s]
    longest = max((after - before for before, after in itertools.pairwise(good)), default=0.0)
    return {
        "num_answers": len(good),
        "num_errors": len(answers.errors),
        "errors": {code: answers.errors.count(code) for code in sorted(set(answers.errors))},
        "num_different_texts": len(texts),
        "longest_gap_s": round(longest, 2),
        "last_error_after_s": round(max(bad_after, default=struck_s) - struck_s, 1),
    }


def wait_replicas(client: Client) -> float:
    """Wait until two replicas of `m` run; returns how long that took."""
    began = time.monotonic()
    while client.deployments.get("m").replicas.running < 2:
        if time.monotonic() - began > TIMEOUT_S:
            raise SystemExit("there are not two replicas")
        time.sleep(0.3)
    return time.monotonic() - began
