"""A pack that does not reach its claim: the event, the job on kept prompts, its pack, and what that is held against.

The real thing, small: a random target of 32 hidden units, a job on Ray, Ray Serve, prompts over HTTP. Only the first
pack's claim is made up: a target this small writes text that no draft learns well enough to fall from, or to rise by.
That acceptance rises is measured on SmolLM2, by `make proof NAME=drift`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pack_files import put_pack
from running import Service
from test_adapt_and_serve import CONFIG
from tiny_models import fit_draft, register_draft
from waiting import TEST_TIMEOUT_S, Stall

from eda_service.client import Client
from eda_service.config.job import TargetSpec, TrainConfig
from eda_service.drafts.checkpoint import load_base_draft, save_pack
from eda_service.drafts.freezing import prepare
from eda_service.targets.loader import load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]

NAME, CLAIM = "tiny-tuned", 2.5
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
    draft_dir = register_draft(home, fit_draft(target, steps=1), target)
    pack_dir, train = tmp_path_factory.mktemp("pack"), TrainConfig()
    save_pack(pack_dir, prepare(load_base_draft(draft_dir, dtype=torch.float32).draft, train, seed=0), train, None)
    put_pack(home, NAME, CLAIM, files=pack_dir, target=target.fingerprint, base_draft="tiny@1", **CONFIG)
    env = {"EDA_DISPATCH_INTERVAL_S": "0.2", "EDA_DRIFT_INTERVAL_S": "0.5"}
    with Service(home, env, allow=tiny_dir.parent.parent) as running:
        yield running


def ask(url: str, text: str) -> None:
    """A sampled answer with a seed: those are always drafted for, whether or not it pays on this machine."""
    body = {"model": NAME, "messages": [{"role": "user", "content": text}], "seed": 1, "max_tokens": 24}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


def drift(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/v1/deployments/{NAME}", timeout=30).json()["drift"]
    return found


def events(url: str) -> list[str]:
    found = httpx.get(f"{url}/v1/deployments/{NAME}/events", timeout=30).json()["data"]
    return [each["type"] for each in reversed(found)]


def ask_until(url: str, asked: Iterator[str], holds: Callable[[], bool], what: str) -> None:
    stall = Stall(what, lambda: (drift(url), events(url)))
    while not holds():
        stall.check()
        for _ in range(4):
            ask(url, next(asked))


def claim_of(client: Client, pack: str) -> float:
    """What a pack measured."""
    found = next(each for each in client.packs.get(NAME).versions if each.id == pack)
    assert found.evaluation is not None
    return found.evaluation.acceptance_length


def texts() -> Iterator[str]:
    rng = random.Random(0)
    found = [" ".join(rng.choices(WORDS, k=8)) for _ in range(40)]
    while True:
        yield from found


def test_a_fall_is_seen_adapted_to_and_ended(service: Service, tiny_dir: Path) -> None:
    url = str(service.up_file["api_url"])
    with Client(url) as client:
        settings = {"min_rounds": 300, "adapt": True, "keep_prompts": 40, "redact": ["stone"]}
        shared = {"model": str(tiny_dir), "dtype": "float32", "base_draft": "tiny@1"}
        client.deployments.create({**shared, "name": NAME, "pack": f"{NAME}@latest", "drift": settings})
        service.wait_served(client, NAME)
        asked = texts()
        ask_until(url, asked, lambda: "adaptation_queued" in events(url), "a job of the drift's")
        fallen = drift(url)
        assert fallen["is_below"]
        assert events(url) == ["acceptance_drift", "adaptation_queued"]

        job = next(each for each in client.page().data if each.metadata.get("made_by") == "drift")
        kept = Path(httpx.get(f"{url}/v1/adaptations/{job.id}", timeout=30).json()["dataset"]["source"]).read_text(
            encoding="utf-8"
        )
        assert "[redacted]" in kept
        assert "stone" not in kept
        ended = service.wait_job(client, job.id)
        assert ended.status == "succeeded", client.logs(job.id)
        ready = service.wait_served(client, NAME)
        assert ready.loaded_pack == ended.result_pack == f"{NAME}@2"

        ask_until(url, asked, lambda: drift(url)["ratio"] is not None, "a measured ratio")
        risen = drift(url)
        assert (fallen["expected"], risen["expected"]) == (CLAIM, pytest.approx(claim_of(client, ended.result_pack)))
        assert not risen["is_below"]
        assert events(url) == ["acceptance_drift", "adaptation_queued"]
