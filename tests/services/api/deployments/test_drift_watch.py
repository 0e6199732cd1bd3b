"""Falling acceptance: events once per crossing, jobs on kept prompts, and when there are none. Scripted replicas."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from pack_files import put_pack
from scripted_service import Answer, ScriptedService

from api.app import create_app
from api.deployments.drift import DriftWatch
from api.deployments.readaptation import Readaptation
from api.deployments.replicas import ReplicaClient
from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.group_metrics import GROUP_METRICS, GroupMetrics, VariantMetrics
from api.packs.packs import PackService
from api.settings import Settings
from eda_service.config.job import AdaptConfig
from eda_service.jobstore import JobStore
from eda_service.raycluster.serve_plan import group_key
from eda_service.storage.samples import prompts

TARGET = {"model": "org/model", "adapter": None, "revision": None, "dtype": "auto"}
SETTINGS = {"min_rounds": 100, "adapt": True, "keep_prompts": 50, "cool_down_s": 1000}


class World:
    """A deployment `math` whose pack was published with acceptance length 2.0, and one scripted replica."""

    def __init__(self, client: TestClient, settings: Settings, proxy: ScriptedService) -> None:
        self.client, self.settings, self.proxy = client, settings, proxy
        self.store: JobStore = client.app.state.services.store  # type: ignore[attr-defined]
        self.now, self.later_s = 1000.0, 0.0
        replicas, packs = ReplicaClient(proxy.url), PackService(self.store, settings.home)
        again = Readaptation(self.store, packs, settings, lambda: None, clock=lambda: time.time() + self.later_s)
        self.watch = DriftWatch(self.store, packs, replicas, again, clock=lambda: self.now)
        self.tried = self.accepted = 0

    def deploy(self, pack: str, **changes: object) -> None:
        body = {"name": "math", "model": "org/model", "base_draft": "small@1", "pack": pack, "drift": SETTINGS}
        made = self.client.post("/v1/deployments", json={**body, **changes})
        assert made.status_code == 201, made.text

    def serve(self, rate: float, pack: str = "math@1") -> None:
        """A hundred rounds of one drafted token, and a look at them."""
        self.now += 10
        self.tried, self.accepted = self.tried + 100, self.accepted + round(100 * rate)
        counts = ModelCounts(num_rounds=self.tried, tried_at=[self.tried], accepted_at=[self.accepted])
        found = GroupMetrics([VariantMetrics(self.uid, pack, counts)], num_replicas=1)
        answer = Answer(headers={"content-type": "application/json"}, body=GROUP_METRICS.dump_json(found))
        self.proxy.on("GET", f"/groups/{group_key(TARGET)}/internal/metrics", answer)
        self.watch.run_once()

    def keep(self, number: int) -> None:
        directory = prompts.open_directory(self.settings.home, self.uid)
        file = prompts.PromptFile(directory / "r1.jsonl", 50)
        for i in range(number):
            file.add({"at": float(i), "messages": [{"role": "user", "content": f"question {i}"}]})

    @property
    def uid(self) -> str:
        return self.store.deployments.get("math").uid

    @property
    def events(self) -> list[str]:
        found = self.client.get("/v1/deployments/math/events").json()["data"]
        return [each["type"] for each in reversed(found)]


@pytest.fixture
def serve_port(proxy: ScriptedService) -> int:
    return httpx.URL(proxy.url).port or 0


@pytest.fixture
def world(settings: Settings, proxy: ScriptedService) -> Iterator[World]:
    evaluation = {"num_draft_tokens": 1, "num_prompts": 8}
    deploy = {"enabled": False, "min_gain": 1.05}
    pack = put_pack(settings.home, "math", 1.8, evaluation=evaluation, train={"epochs": 3}, deploy=deploy)
    assert pack == "math@1"
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield World(client, settings, proxy)


def test_one_event_for_each_crossing(world: World) -> None:
    world.deploy("math@latest", drift={"min_rounds": 100})
    for rate in (0.8, 0.8, 0.3, 0.2, 0.3):  # 1.8 x 0.8 is 1.44
        world.serve(rate)
    assert world.events == ["acceptance_drift"]
    (event,) = world.client.get("/v1/deployments/math/events").json()["data"]
    assert event["data"] == {"pack": "math@1", "acceptance_length": 1.3, "expected": 1.8}
    assert "72% of the 1.800" in event["message"]
    world.serve(0.46)  # above the threshold, but not by enough
    assert world.events == ["acceptance_drift"]
    for rate in (0.8, 0.9, 0.2):
        world.serve(rate)
    assert world.events == ["acceptance_drift", "acceptance_recovered", "acceptance_drift"]
    assert not prompts.directory(world.settings.home, world.uid).exists()
    assert world.store.jobs.counts() == {}


def test_what_another_process_has_seen_is_not_told_again(world: World) -> None:
    world.deploy("math@latest", drift={"min_rounds": 100})
    other = World(world.client, world.settings, world.proxy)
    for _ in range(3):
        world.serve(0.2)
        other.now, other.tried, other.accepted = world.now, world.tried - 100, world.accepted - 20
        other.serve(0.2)
    assert world.events == ["acceptance_drift"]


def test_a_fall_queues_one_job_like_the_packs_own_on_the_kept_prompts(world: World) -> None:
    world.deploy("math@latest")
    world.serve(0.8)
    world.serve(0.2)
    assert world.events == ["acceptance_drift"]  # it waits for prompts
    world.keep(40)
    for _ in range(3):
        world.serve(0.2)
    assert world.events == ["acceptance_drift", "adaptation_queued"]
    (job,), _ = world.store.jobs.page()
    assert job.labels == {"made_by": "drift", "deployment": "math"}
    config = job.adapt_config()
    assert (config.public_name, config.train.epochs, config.base_draft) == ("math", 3, "small@1")
    assert (config.dataset.num_prompts, config.evaluation.num_prompts) == (40, 8)
    assert (config.deploy.enabled, config.deploy.min_gain) == (True, 1.05)  # by the gate of the pack's own job
    source = Path(config.dataset.source)
    assert oct(source.stat().st_mode & 0o777) == "0o600"
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    assert lines[-1] == {"messages": [{"role": "user", "content": "question 39"}]}
    AdaptConfig.model_validate(job.config)


def test_a_second_fall_waits_for_the_cool_down(world: World) -> None:
    world.deploy("math@latest")
    world.keep(40)
    for rate in (0.8, 0.2, 0.9, 0.9, 0.2, 0.2):
        world.serve(rate)
    assert world.events[-1] == "acceptance_drift"
    assert len(world.store.jobs.page()[0]) == 1
    world.later_s = 1001.0
    world.serve(0.2)
    assert world.events[-1] == "adaptation_queued"
    assert len(world.store.jobs.page()[0]) == 2


@pytest.mark.parametrize(("followed", "pinned"), [("math@1", None), ("math@latest", 1)])
def test_a_deployment_that_no_new_pack_would_reach_is_not_adapted_and_says_so(
    world: World, followed: str, pinned: int | None
) -> None:
    world.deploy(followed)
    world.store.deployments.pin_champion("local", "math", pinned)
    world.keep(40)
    for rate in (0.8, 0.2, 0.2):
        world.serve(rate)
    assert world.events == ["acceptance_drift", "adaptation_skipped"]
    assert world.store.jobs.counts() == {}


def test_another_pack_is_judged_by_its_own_rounds_and_a_deletion_forgets_all(world: World) -> None:
    world.deploy("math@latest")
    world.keep(20)
    world.serve(0.8)
    world.serve(0.2)
    put_pack(world.settings.home, "math", 1.9, evaluation={"num_draft_tokens": 1, "num_prompts": 8})
    assert world.client.patch("/v1/deployments/math", json={"pack": "math@latest"}).status_code == 200
    world.serve(0.2)  # still counted for the old one
    assert world.client.get("/v1/deployments/math").json()["drift"]["is_below"] is False
    for _ in range(2):
        world.serve(0.2, "math@2")
    assert [each for each in world.events if each == "acceptance_drift"] == ["acceptance_drift"] * 2
    kept = prompts.directory(world.settings.home, world.uid)
    assert kept.exists()
    assert world.client.delete("/v1/deployments/math").status_code == 200
    assert not kept.exists()
    assert world.store.drifts.all() == {}


def test_settings_are_changed_by_field_and_checked(world: World) -> None:
    world.deploy("math@latest")
    changed = world.client.patch("/v1/deployments/math", json={"drift": {"below": 0.5}})
    assert changed.status_code == 200, changed.text
    found = world.client.get("/v1/deployments/math").json()["drift"]["settings"]
    assert (found["below"], found["min_rounds"], found["adapt"]) == (0.5, 100, True)
    for wrong, word in (({"keep_prompts": 0}, "adapt needs keep_prompts"), ({"redact": ["("]}, "regular expression")):
        refused = world.client.patch("/v1/deployments/math", json={"drift": wrong})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "drift")
        assert word in refused.json()["error"]["message"]


def test_a_name_that_another_takes_begins_without_judgement_events_or_prompts(world: World) -> None:
    """Also for a watcher that has seen the old one, and for one that is in the middle of a look at it."""
    world.deploy("math@latest")
    world.keep(40)
    world.serve(0.8)
    world.serve(0.2)
    old = world.store.deployments.get("math")
    assert world.events == ["acceptance_drift", "adaptation_queued"]
    assert world.client.delete("/v1/deployments/math").status_code == 200
    world.deploy("math@latest")
    told = {"is_below": True, "message": "fell", "data": {}}
    assert not world.store.drifts.record_crossing("math", old.uid, "math@1", **told)
    assert not world.store.drifts.record_handled("math", old.uid, "adaptation_queued", "late", {}, is_job=True)
    assert world.events == []
    shown = world.client.get("/v1/deployments/math").json()["drift"]
    assert (shown["is_below"], shown["acceptance_length"], shown["expected"]) == (False, None, None)
    assert prompts.newest(world.settings.home, world.uid, 50) == []
    assert world.store.drifts.num_events() == {}
    world.tried = world.accepted = 0
    world.serve(0.2)  # one look is no window yet, whatever the old one's rounds were
    assert world.watch.judgements[world.uid].acceptance_length is None
    assert old.uid not in world.watch.judgements
