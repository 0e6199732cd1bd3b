"""Two replicas for real: their metrics are one sum, and one that is killed takes only its own requests with it.

The oracle of every text is greedy decoding through transformers.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
import torch
from running import Service, listeners_of, off_loopback
from tiny_models import fit_draft, register_draft
from transformers import AutoModelForCausalLM, AutoTokenizer
from waiting import TEST_TIMEOUT_S, wait_for

from eda_service.client import Client
from eda_service.config.job import TargetSpec
from eda_service.raycluster.token import auth_headers, token_path
from eda_service.targets.loader import load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]

QUESTION = [{"role": "user", "content": "the other one and the user"}]
NUM_TOKENS = 24
NUM_CLIENTS = 6


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, target_dir: Callable[[str], Path]) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    base_dir = target_dir("llama")
    base = load_target(TargetSpec(model=str(base_dir), dtype="float32"))
    register_draft(home, fit_draft(base), base)
    with Service(home, {"EDA_DISPATCH_INTERVAL_S": "0.2"}, allow=base_dir.parent) as running:
        with Client(str(running.up_file["api_url"])) as client:
            body = {"model": str(base_dir), "dtype": "float32", "base_draft": "tiny@1", "name": "m", "replicas": 2}
            client.deployments.create(body)
            running.wait_served(client, "m", replicas=2)
        yield running


@pytest.fixture(scope="module")
def greedy(target_dir: Callable[[str], Path]) -> str:
    tokenizer = AutoTokenizer.from_pretrained(target_dir("llama"))
    model = AutoModelForCausalLM.from_pretrained(target_dir("llama"), dtype=torch.float32)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, do_sample=False, max_new_tokens=NUM_TOKENS, eos_token_id=[0, 2])
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


@dataclass
class ClientOutcomes:
    """What clients saw."""

    texts: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    num_tokens: int = 0
    longest_s: float = 0.0

    @property
    def num(self) -> int:
        return len(self.texts) + len(self.errors)


def ask(service: Service, seen: ClientOutcomes) -> None:
    """One streamed answer: a whole text or an error, in whatever form."""
    began, text, error, usage = time.monotonic(), "", None, 0
    body: dict[str, Any] = {"model": "m", "messages": QUESTION, "temperature": 0, "max_tokens": NUM_TOKENS}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    try:
        url = f"{service.up_file['api_url']}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=120) as answer:
            if answer.status_code != 200:
                answer.read()
                error = answer.json()["error"]["code"]
            for line in answer.iter_lines() if error is None else ():
                event = {} if line in {"", "data: [DONE]"} else json.loads(line.removeprefix("data: "))
                error = event["error"]["code"] if "error" in event else error
                text += "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
                usage = (event.get("usage") or {}).get("completion_tokens", usage)
    except httpx.HTTPError as failure:
        error = type(failure).__name__
    seen.longest_s = max(seen.longest_s, time.monotonic() - began)
    if error is None:
        seen.num_tokens += usage
        seen.texts.append(text)
    else:
        seen.errors.append(error)


def scrape(service: Service) -> dict[str, float]:
    text = httpx.get(f"{service.up_file['api_url']}/metrics", timeout=30).text
    return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)}


def of(samples: dict[str, float], name: str) -> float:
    return samples.get(name + '{model_name="m"}', 0.0)


def replicas(service: Service) -> dict[str, int]:
    """Replica id to process id."""
    url = f"{service.up_file['dashboard_url']}/api/serve/applications/"
    found = httpx.get(url, headers=auth_headers(token_path(service.home)), timeout=60).json()["applications"]
    (application,) = found.values()
    listed = application["deployments"]["Endpoint"]["replicas"]
    return {each["replica_id"]: each["pid"] for each in listed if each["state"] == "RUNNING"}


def test_the_sum_over_replicas_is_what_clients_got_in_every_scrape(service: Service, greedy: str) -> None:
    seen = ClientOutcomes()
    for _ in range(12):
        ask(service, seen)
    assert (seen.errors, set(seen.texts)) == ([], {greedy})
    wait_for(  # the other replica's part comes with its next report
        lambda: of(scrape(service), "vllm:generation_tokens_total") >= seen.num_tokens,
        what=f"{seen.num_tokens} tokens in the sum over replicas",
        progress=lambda: of(scrape(service), "vllm:generation_tokens_total"),
        stall_s=60,
    )
    for _ in range(10):
        found = scrape(service)
        assert of(found, "vllm:generation_tokens_total") == seen.num_tokens
        assert of(found, "vllm:time_to_first_token_seconds_count") == 12
        (running,) = [value for name, value in found.items() if name.startswith("eda_replicas{")]
        assert running == 2


def test_replicas_and_their_proxy_listen_on_loopback(service: Service) -> None:
    found = listeners_of(psutil.Process(service.child.pid))
    assert {name for name in ("ServeReplica", "ProxyActor", "ServeController") if any(name in c for _, c in found)} == {
        "ServeReplica",
        "ProxyActor",
        "ServeController",
    }
    assert off_loopback(found) == []


def test_a_killed_replica_takes_only_its_own_requests_and_no_counter_back(service: Service, greedy: str) -> None:
    seen, stopping = ClientOutcomes(), threading.Event()

    def keep_asking() -> None:
        while not stopping.is_set():
            ask(service, seen)

    threads = [threading.Thread(target=keep_asking) for _ in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        wait_more(seen, threads, 24)
        assert seen.errors == []
        time.sleep(3.0)
        before = of(scrape(service), "vllm:generation_tokens_total")
        killed, pid = next(iter(replicas(service).items()))
        os.kill(pid, signal.SIGKILL)
        wait_more(seen, threads, 60)
        lost = len(seen.errors)
        service.wait_for(lambda: killed not in (there := replicas(service)) and len(there) == 2, "another replica")
        wait_more(seen, threads, 24)
    finally:
        stopping.set()
        for thread in threads:
            thread.join(130)
    assert not any(thread.is_alive() for thread in threads)
    assert set(seen.texts) == {greedy}
    assert lost <= NUM_CLIENTS, seen.errors
    assert len(seen.errors) == lost
    assert of(scrape(service), "vllm:generation_tokens_total") > before
    print(f"{len(seen.texts)} answers, errors {seen.errors}, longest {seen.longest_s:.1f} s")  # noqa: T201


def wait_more(seen: ClientOutcomes, threads: list[threading.Thread], number: int) -> None:
    wanted = seen.num + number

    def there() -> bool:
        assert all(thread.is_alive() for thread in threads)
        return seen.num >= wanted

    wait_for(there, what=f"{number} more answers", progress=lambda: seen.num, interval_s=0.05)
