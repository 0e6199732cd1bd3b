"""`/v1/pack-versions`, pins, and deployments that are made from a pack alone: a real store and registry, no cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pack_files import put_pack

from api.settings import Settings
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.config.tasks import MeasureConfig
from eda_service.jobstore import Content, JobStore, Status
from eda_service.storage.published import registry

VERSIONS = "/v1/pack-versions"


def error(answer: Any, status: int) -> str:
    """The message of a refusal."""
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def is_there(home: Path, number: int) -> bool:
    return (home / "packs" / "math" / str(number) / "pack.safetensors").exists()


def test_a_version_says_everything(client: TestClient, settings: Settings) -> None:
    put_pack(settings.home, "math", 2.0)
    put_pack(settings.home, "math", 2.4, speedup=1.5, base_speedup=1.1, rivals={"math@1": (2.1, 1.2)}, seed=3)
    client.post("/v1/deployments", json={"name": "pair", "pack": "math@2", "base_draft": "small@1"})
    body = client.get(f"{VERSIONS}/math@2").json()
    assert (body["id"], body["champion"], body["pinned"], body["seed"]) == ("math@2", True, False, 3)
    assert body["metrics"] == {
        "adapted_draft.acceptance_length.t0": 2.4, "base_draft.acceptance_length.t0": 1.4,
        "adapted_draft.speedup.t0": 1.5, "base_draft.speedup.t0": 1.1,
    }  # fmt: skip
    assert body["rivals"] == [{"pack": "math@1", "acceptance_length": 2.1, "speedup": 1.2}]
    assert body["config"]["target"]["model"] == "org/model"
    assert (body["base_draft"], body["source"]) == ("small@1", None)
    assert body["deployments"] == [{"name": "pair", "pack_ref": "math@2"}]
    assert client.get(f"{VERSIONS}/math@latest").json()["id"] == "math@2"
    assert "its versions: 1, 2" in error(client.get(f"{VERSIONS}/math@7"), 404)


def test_two_versions_are_compared_in_one_measurement_or_it_is_said_why_not(
    client: TestClient, settings: Settings
) -> None:
    put_pack(settings.home, "math", 2.0)
    put_pack(settings.home, "math", 2.5, speedup=1.5, prompts="q", rivals={"math@1": (2.0, 1.2)})
    put_pack(settings.home, "math", 2.2, prompts="r")
    put_pack(settings.home, "math", 2.2, weights_sha256="v" * 64)

    def compare(one: str, other: str) -> dict[str, Any]:
        found: dict[str, Any] = client.get(f"{VERSIONS}/{one}/comparison", params={"other": other}).json()
        return found

    both = compare("math@2", "math@1")
    assert (both["comparable"], both["acceptance_length"], both["other_acceptance_length"]) == (True, 2.5, 2.0)
    assert (both["gain"], both["speedup"], both["other_speedup"]) == (1.25, 1.5, 1.2)
    assert both["reason"].startswith("the job of math@2 measured both, on ")
    turned = compare("math@1", "math@2")
    assert (turned["gain"], turned["speedup"], turned["reason"]) == (0.8, 1.2, both["reason"])
    apart = compare("math@3", "math@1")
    assert (apart["comparable"], apart["gain"], apart["acceptance_length"]) == (False, None, None)
    assert "measured apart, with other prompts or settings: math@3 on " in apart["reason"]
    assert compare("math@4", "math@1")["reason"] == "math@4 and math@1 were made for different targets"
    best = client.get("/v1/packs/math").json()["champion"]
    assert client.get(f"{VERSIONS}/math@1/comparison").json()["other"] == f"math@{best}"


def test_a_name_alone_means_the_pinned_version(client: TestClient, store: JobStore, settings: Settings) -> None:
    job, _ = store.jobs.create(AdaptConfig(target=TargetSpec(model="org/model")), owner="local")
    put_pack(settings.home, "math", 2.0, job_id=job.id)
    put_pack(settings.home, "math", 2.5)
    assert client.get(f"{VERSIONS}/math").json()["id"] == "math@2"
    for _ in range(2):  # told once
        assert client.put("/v1/packs/math/champion", json={"version": 1}).json()["champion_pinned"]
    pinned = client.get(f"{VERSIONS}/math").json()
    assert (pinned["id"], pinned["pinned"], pinned["champion"]) == ("math@1", True, True)
    deployed = client.post("/v1/deployments", json={"pack": "math", "base_draft": "small@1"}).json()
    assert (deployed["name"], deployed["pack"], deployed["pack_ref"]) == ("math", "math@1", "math")
    client.put("/v1/packs/math/champion", json={"version": None})
    assert client.get(f"{VERSIONS}/math").json()["id"] == "math@2"
    told = [(each.type, each.message) for each in store.events.of(job.id)[0]]
    assert told[1:] == [("pack_pinned", "local pinned math@1"), ("pack_unpinned", "local unpinned math@1")]


def test_a_pack_is_deployed_over_its_own_target(client: TestClient, settings: Settings) -> None:
    put_pack(settings.home, "math", 2.0, served_name="sums")
    made = client.post("/v1/deployments", json={"pack": "math@1"}).json()
    assert (made["name"], made["model"], made["adapter"], made["base_draft"]) == ("math", "org/model", None, "small@1")
    changed = client.post("/v1/deployments", json={"pack": "math@1", "name": "other", "adapter": "org/lora"}).json()
    assert (changed["model"], changed["adapter"]) == ("org/model", "org/lora")
    assert "model is missing" in error(client.post("/v1/deployments", json={"name": "x"}), 400)


def test_what_is_used_is_not_removed(client: TestClient, store: JobStore, settings: Settings) -> None:
    for length in (2.0, 2.5):
        put_pack(settings.home, "math", length)
    assert "name the version to remove" in error(client.delete(f"{VERSIONS}/math"), 409)
    client.post("/v1/deployments", json={"name": "pair", "pack": "math@1"})
    client.put("/v1/packs/math/champion", json={"version": 1})
    measure = MeasureConfig(target=TargetSpec(model="org/model"), draft="small@1", pack="math@1")
    job, _ = store.jobs.create(measure, owner="local")
    said = error(client.delete(f"{VERSIONS}/math@1"), 409)
    assert f"is used by job {job.id}, deployment pair, a pin of local" in said
    store.jobs.transition(job.id, Status.CANCELLED, event="job_cancelled", message="x")
    client.delete("/v1/deployments/pair")
    assert "is used by a pin of local; " in error(client.delete(f"{VERSIONS}/math@1"), 409)
    assert is_there(settings.home, 1)
    client.put("/v1/packs/math/champion", json={"version": None})
    assert client.delete(f"{VERSIONS}/math@1").json() == {"id": "math@1", "object": "pack.version", "deleted": True}
    assert not is_there(settings.home, 1)
    assert [each["version"] for each in client.get("/v1/packs/math").json()["versions"]] == [2]
    assert error(client.delete(f"{VERSIONS}/math@1"), 404)
    assert client.delete(f"{VERSIONS}/math@2").status_code == 200
    assert client.get("/v1/packs/math").status_code == 404
    assert registry.reserve_version("math", "adapt_new", settings.home) == 3  # no number means two packs


def test_what_answers_until_the_wanted_pack_loads_is_used(
    client: TestClient, store: JobStore, settings: Settings
) -> None:
    for length in (2.0, 2.5):
        put_pack(settings.home, "math", length)
    client.post("/v1/deployments", json={"name": "pair", "pack": "math@1"})
    assert client.patch("/v1/deployments/pair", json={"pack": "math@2"}).json()["pack"] == "math@2"
    there = store.deployments.get("pair")
    before = Content(target=there.target, base_draft=there.base_draft, pack="math@1")
    failed: dict[str, Any] = {"reason": "x", "message": "x", "data": {}, "retry_in_s": None}
    assert store.loads.record_failure("pair", there.uid, 0, serves=before, **failed)
    assert "is used by deployment pair; " in error(client.delete(f"{VERSIONS}/math@1"), 409)


def test_a_deployment_that_comes_in_between_keeps_its_pack(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_pack(settings.home, "math", 2.0)
    delete_pack = registry.delete_pack

    def deployed_before(*arguments: Any, **options: Any) -> bool:
        assert client.post("/v1/deployments", json={"name": "pair", "pack": "math@1"}).status_code == 201
        return delete_pack(*arguments, **options)

    monkeypatch.setattr(registry, "delete_pack", deployed_before)
    assert "deployment pair" in error(client.delete(f"{VERSIONS}/math@1"), 409)
    assert is_there(settings.home, 1)


def test_only_its_owner_removes_a_pack(client: TestClient, store: JobStore, settings: Settings) -> None:
    config = AdaptConfig(target=TargetSpec(model="org/model"))
    hers, _ = store.jobs.create(config, owner="ada")
    store.jobs.transition(hers.id, Status.CANCELLED, event="job_cancelled", message="over")
    put_pack(settings.home, "math", 2.0, job_id=hers.id)
    put_pack(settings.home, "math", 2.0)
    scopes = ["jobs:read", "jobs:write"]
    ada, bob, root = (
        {"authorization": f"Bearer {store.keys.create(owner, 'test', given, None)[1]}"}
        for owner, given in (("ada", scopes), ("bob", scopes), ("root", ["admin"]))
    )
    store.deployments.pin_champion("root", "math", 1)
    assert error(client.delete(f"{VERSIONS}/math@1", headers=bob), 404)
    assert "is everybody's; ask an admin" in error(client.delete(f"{VERSIONS}/math@2", headers=bob), 403)
    hidden = error(client.delete(f"{VERSIONS}/math@1", headers=ada), 409)
    assert "is used by 1 of other owners" in hidden
    assert "root" not in hidden
    store.deployments.pin_champion("root", "math", None)
    assert client.delete(f"{VERSIONS}/math@1", headers=ada).status_code == 200
    assert client.delete(f"{VERSIONS}/math@2", headers=root).status_code == 200
    assert [each.type for each in store.events.of(hers.id)[0]][-1] == "pack_removed"


def test_numbers_of_a_pulled_pack_decide_nothing(client: TestClient, settings: Settings) -> None:
    put_pack(settings.home, "math", 2.0)
    put_pack(settings.home, "math", 99.0, source="org/boast@abc")
    body = client.get("/v1/packs/math").json()
    assert (body["latest"], body["champion"], body["versions"][0]["source"]) == (2, 1, "org/boast@abc")
    found = client.get(f"{VERSIONS}/math@2/comparison", params={"other": "math@1"}).json()
    assert (found["comparable"], "was pulled" in found["reason"]) == (False, True)
    client.post("/v1/deployments", json={"name": "pair", "pack": "math@1"})
    refused = client.patch("/v1/deployments/pair", json={"pack": "math@2"})
    assert (refused.status_code, "no measurement in common" in refused.text) == (409, True)
