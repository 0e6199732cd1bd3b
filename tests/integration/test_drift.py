"""A pack that fits one kind of text meets another: the event, the job on kept prompts, its pack, and acceptance again.

The real thing, small: a random target of 32 hidden units, jobs on Ray, Ray Serve, prompts over HTTP.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import Service
from test_adapt_and_serve import CONFIG, write_prompts
from tiny_models import fit_draft, register_draft

from eda_service.client import Client
from eda_service.config import TargetSpec
from eda_service.target.loader import load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

NAME = "tiny-tuned"
WORDS = [
    "time",
    "water",
    "stone",
    "river",
    "night",
    "green",
    "follow",
    "letter",
    "seven",
    "winter",
    "table",
    "against",
    "nothing",
]


@pytest.fixture(scope="module")
def tiny_dir(target_dir: Callable[[str], Path]) -> Path:
    return target_dir("llama")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    target = load_target(TargetSpec(model=str(tiny_dir), dtype="float32"))
    register_draft(home, fit_draft(target, steps=1), target)
    env = {"EDA_DISPATCH_INTERVAL_S": "0.2", "EDA_DRIFT_INTERVAL_S": "0.5"}
    with Service(home, env, allow=tiny_dir.parent.parent) as running:
        yield running


def ask(url: str, text: str) -> dict[str, Any]:
    body = {"model": NAME, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 24}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["metrics"]["speculative_decoding"]
    return found


def drift(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/v1/deployments/{NAME}", timeout=30).json()["drift"]
    return found


def events(url: str) -> list[str]:
    found = httpx.get(f"{url}/v1/deployments/{NAME}/events", timeout=30).json()["data"]
    return [each["type"] for each in reversed(found)]


def ask_until(url: str, texts: Iterator[str], holds: Callable[[], bool], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, (drift(url), events(url))
        for _ in range(4):
            ask(url, next(texts))


def familiar() -> Iterator[str]:
    i = 0
    while True:
        yield f"the user and the other assistant number {i % 38}"
        i += 1


def strange() -> Iterator[str]:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=8)) for _ in range(40)]
    while True:
        yield from texts


def test_a_fall_is_seen_adapted_to_and_ended(service: Service, tiny_dir: Path, tmp_path: Path) -> None:
    url = str(service.facts["api_url"])
    prompts = write_prompts(service.home / "prompts.jsonl", 38)
    with Client(url) as client:
        # Greedy answers of few prompts, learnt by heart and measured on the same ones: a pack for this text alone.
        dataset = {"source": str(prompts), "num_prompts": 38}
        config = {**CONFIG, "target": {"dtype": "float32"}, "selfgen": {**CONFIG["selfgen"], "temperature": 0.0}}
        config["train"] = {**CONFIG["train"], "epochs": 200, "private_width_fraction": 1.0}
        config["selection"] = {**CONFIG["selection"], "keep_fraction": 1.0}
        body = {"model": str(tiny_dir), "base_draft": "tiny@1", "served_name": NAME, "config": config}
        first = client.create({**body, "dataset": dataset, "eval_dataset": {**dataset, "num_prompts": 12}})
        assert client.wait(first.id, timeout_s=400).status == "succeeded", client.logs(first.id)
        client.deployments.wait_ready(NAME, timeout_s=200)
        settings = {"below": 0.8, "min_rounds": 150, "adapt": True, "keep_prompts": 40}
        changed = httpx.patch(f"{url}/v1/deployments/{NAME}", json={"drift": settings}, timeout=30)
        assert changed.status_code == 200, changed.text

        known, other = familiar(), strange()
        ask_until(url, known, lambda: drift(url)["ratio"] is not None, timeout_s=120)
        print("familiar", drift(url))  # noqa: T201
        assert events(url) == []

        ask_until(url, other, lambda: "adaptation_queued" in events(url), timeout_s=120)
        fallen = drift(url)
        print("strange", fallen, events(url))  # noqa: T201
        assert fallen["is_below"]
        job = next(each for each in client.page().data if each.metadata.get("made_by") == "drift")
        ended = client.wait(job.id, timeout_s=400)
        assert ended.status == "succeeded", client.logs(job.id)
        ready = client.deployments.wait_ready(NAME, timeout_s=200)
        print("new pack", ready.pack, ready.loaded_pack)  # noqa: T201
        assert ready.loaded_pack == ended.result_pack == f"{NAME}@2"

        ask_until(url, other, lambda: drift(url)["ratio"] is not None, timeout_s=120)
        risen = drift(url)
        print("after", risen, events(url))  # noqa: T201
        assert risen["acceptance_length"] > fallen["acceptance_length"] * 1.1
        assert not risen["is_below"]
        assert events(url).count("acceptance_drift") == 1
