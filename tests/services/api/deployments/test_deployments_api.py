"""`/v1/deployments` and `/v1/packs` over a real store and registry; no cluster, so nothing gets past `pending`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pack_files import put_pack

from api.app import create_app
from api.settings import Settings
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.jobstore import JobStore

BODY: dict[str, Any] = {"name": "pair", "model": "org/model", "base_draft": "small@1"}


@pytest.fixture
def store(client: TestClient) -> JobStore:
    found: JobStore = client.app.state.services.store  # type: ignore[attr-defined]
    return found


def deploy(client: TestClient, **changes: Any) -> Any:
    return client.post("/v1/deployments", json={**BODY, **changes})


def code(answer: Any, status: int) -> tuple[str, str | None]:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    return error["code"], error["param"]


def test_a_deployment_is_made_once_and_told_apart_from_others(client: TestClient) -> None:
    made = deploy(client, replicas={"min": 1, "max": 3}, labels={"team": "math"})
    assert made.status_code == 201
    assert made.headers["location"] == "/v1/deployments/pair"
    body = made.json()
    assert (body["state"], body["reason"]) == ("pending", "Ray does not answer")
    assert (body["owner"], body["base_draft"], body["pack"], body["revision"]) == ("local", "small@1", None, 1)
    assert body["replicas"] == {"min": 1, "max": 3, "round_ms": None, "running": 0}
    assert body["memory"] is None
    again = deploy(client, replicas={"min": 1, "max": 3}, labels={"team": "math"})
    assert (again.status_code, again.json()["created_at"]) == (200, body["created_at"])
    taken = deploy(client)
    assert code(taken, 409) == ("name_taken", "name")
    assert taken.headers["x-should-retry"] == "false"


TUNED: dict[str, Any] = {"model": "org/model", "adapter": "org/my-lora", "base_draft": None}


def test_what_slows_a_merged_deployment_is_said_before_it_is_done(client: TestClient) -> None:
    assert deploy(client, **TUNED).json()["warnings"] == []
    refused = deploy(client, name="second")
    assert code(refused, 409) == ("slows_others", "confirm")
    assert "pair is the only one of your deployments on its base" in refused.json()["error"]["message"]
    assert client.get("/v1/deployments/second").status_code == 404
    made = deploy(client, name="second", confirm=True)
    assert made.status_code == 201
    assert any("pair is no longer merged" in each and "0.66" in each for each in made.json()["warnings"])
    third = deploy(client, **TUNED, name="third")  # nobody is merged any more, so nobody gets slower
    assert (third.status_code, len(third.json()["warnings"])) == (201, 2)
    assert "pair, second" in third.json()["warnings"][0]


def test_a_base_without_an_adapter_and_another_base_are_not_slowed(client: TestClient) -> None:
    assert deploy(client).status_code == 201
    assert deploy(client, **TUNED, name="tuned").status_code == 201
    assert deploy(client, **{**TUNED, "dtype": "float32"}, name="elsewhere").json()["warnings"] == []


def test_what_a_deployment_does_to_another_owner_s_tells_nobody_of_it(client: TestClient, store: JobStore) -> None:
    keys = [store.keys.create(owner, "test", ["jobs:write", "infer"], None)[1] for owner in ("ann", "ben")]
    ann, ben = ({"authorization": f"Bearer {key}"} for key in keys)
    assert client.post("/v1/deployments", json={**BODY, **TUNED}, headers=ann).status_code == 201
    made = client.post("/v1/deployments", json={**BODY, "name": "bens"}, headers=ben)
    assert (made.status_code, made.json()["warnings"]) == (201, [])


def test_equal_requests_at_once_make_one_deployment(client: TestClient) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: deploy(client), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert len(client.get("/v1/deployments/pair").json()["revisions"]) == 1


def test_a_deployment_is_named_after_its_target_and_speculates_only_when_asked(client: TestClient) -> None:
    named = client.post(
        "/v1/deployments", json={"model": "org/model", "adapter": "org/my-lora", "base_draft": None}
    ).json()
    assert (named["name"], named["base_draft"]) == ("my-lora", None)
    default = client.post("/v1/deployments", json={"model": "smollm2-135m-math"}).json()
    assert (default["name"], default["base_draft"]) == ("smollm2-135m-math", "smollm2-135m@3")


def test_lists_come_by_name_page_by_page(client: TestClient) -> None:
    for name in ("c", "a", "b"):
        deploy(client, name=name)
    first = client.get("/v1/deployments", params={"limit": 2}).json()
    assert ([each["name"] for each in first["data"]], first["has_more"]) == (["a", "b"], True)
    rest = client.get("/v1/deployments", params={"limit": 2, "after": first["last_id"]}).json()
    assert ([each["name"] for each in rest["data"]], rest["has_more"]) == (["c"], False)
    assert len({each["group"] for each in first["data"]}) == 1


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({"model": ""}, 400, ("invalid_request", "model")),
        ({"model": "no id at all!"}, 400, ("target_not_found", "model")),
        ({"model": "smollm2-135m-mathh"}, 400, ("target_not_found", "model")),
        ({"model": "/etc"}, 400, ("invalid_request", "model")),
        ({"name": "a/b"}, 400, ("invalid_request", "name")),
        ({"base_draft": "none@1"}, 400, ("base_draft_missing", "base_draft")),
        ({"pack": "none@1"}, 404, ("not_found", "pack")),
        ({"pack": "../x@1"}, 404, ("not_found", "pack")),
        ({"pack": "p@newest"}, 404, ("not_found", "pack")),
        ({"replicas": 0}, 400, ("invalid_request", "replicas")),
        ({"replicas": "5-2"}, 400, ("invalid_request", "replicas")),
        ({"replicas": {"min": 3, "max": 2}}, 400, ("invalid_request", None)),
        ({"replicas": {"min": 2, "max": 2, "round_ms": 50}}, 400, ("invalid_request", None)),
        ({"replicas": {"min": 1, "max": 2, "round_ms": 0}}, 400, ("invalid_request", None)),
        ({"replicas": 65}, 400, ("invalid_request", None)),
        ({"labels": {"k": "v" * 513}}, 400, ("invalid_request", None)),
        ({"packs": "p"}, 400, ("invalid_request", "packs")),
        ({"revision": "../.."}, 400, ("invalid_request", "revision")),
    ],
)
def test_what_cannot_work_is_refused_by_field(
    client: TestClient, changes: dict[str, Any], status: int, expected: tuple[str, str | None]
) -> None:
    found = code(deploy(client, **changes), status)
    assert found[0] == expected[0]
    assert expected[1] is None or found[1] == expected[1]
    assert client.get("/v1/deployments").json()["data"] == []


def test_a_pack_brings_its_base_draft_and_its_numbers(client: TestClient, settings: Settings) -> None:
    put_pack(settings.home, "math", 2.35)
    body = deploy(client, pack="math@latest", base_draft="small@1").json()
    assert (body["pack"], body["pack_ref"], body["base_draft"]) == ("math@1", "math@latest", "small@1")
    assert (body["evaluation"]["acceptance_length"], body["evaluation"]["base_acceptance_length"]) == (2.35, 1.4)
    put_pack(settings.home, "other", 2.0, base_draft="else@7")
    assert code(deploy(client, name="x", pack="other@1"), 400) == ("invalid_request", "base_draft")
    assert code(deploy(client, name="x", pack="math@1", base_draft=None), 400) == ("invalid_request", "base_draft")


def test_a_swap_and_a_rollback_are_revisions(client: TestClient, settings: Settings) -> None:
    for length in (2.0, 2.5):
        put_pack(settings.home, "math", length)
    deploy(client, pack="math@1")
    assert client.patch("/v1/deployments/pair", json={"pack": "math"}).json()["pack"] == "math@2"
    assert client.patch("/v1/deployments/pair", json={"pack": "math"}).json()["revision"] == 2  # nothing changed
    scaled = client.patch("/v1/deployments/pair", json={"replicas": 2, "reason": "busy"}).json()
    assert (scaled["revision"], scaled["replicas"]["max"], scaled["pack"]) == (3, 2, "math@2")
    back = client.post("/v1/deployments/pair/rollback", json={}).json()
    assert (back["revision"], back["pack"], back["pack_ref"], back["replicas"]["max"]) == (4, "math@1", "math@1", 2)
    again = client.post("/v1/deployments/pair/rollback", json={"revision": 2, "reason": "it was fine"}).json()
    assert (again["revision"], again["pack"]) == (5, "math@2")
    history = client.get("/v1/deployments/pair").json()["revisions"]
    assert [(each["revision"], each["pack"], each["reason"]) for each in history] == [
        (5, "math@2", "it was fine"),
        (4, "math@1", "rolled back to revision 1"),
        (3, "math@2", "busy"),
        (2, "math@2", "changed pack"),
        (1, "math@1", "created"),
    ]
    assert {each["made_by"] for each in history} == {"local"}


def test_a_rollback_needs_something_to_go_back_to(client: TestClient, settings: Settings) -> None:
    deploy(client)
    client.patch("/v1/deployments/pair", json={"replicas": 2})
    assert code(client.post("/v1/deployments/pair/rollback", json={}), 409) == ("conflict", None)
    assert code(client.post("/v1/deployments/pair/rollback", json={"revision": 9}), 404) == ("not_found", "revision")
    put_pack(settings.home, "math", 2.0)
    client.patch("/v1/deployments/pair", json={"pack": "math@1"})
    assert client.post("/v1/deployments/pair/rollback", json={}).json()["pack"] is None


def test_a_worse_pack_is_refused_with_both_numbers_unless_forced(client: TestClient, settings: Settings) -> None:
    for length in (2.35, 1.82):
        put_pack(settings.home, "math", length)
    deploy(client, pack="math@1")
    refused = client.patch("/v1/deployments/pair", json={"pack": "math@2"})
    assert code(refused, 409) == ("acceptance_regression", "pack")
    assert "1.820" in refused.text
    assert "2.350" in refused.text
    assert client.get("/v1/deployments/pair").json()["pack"] == "math@1"
    assert client.patch("/v1/deployments/pair", json={"pack": "math@2", "force": True}).json()["pack"] == "math@2"
    put_pack(settings.home, "bad", 1.2)
    assert code(deploy(client, name="bad", pack="bad"), 409)[0] == "acceptance_regression"
    assert deploy(client, name="bad", pack="bad", force=True).status_code == 201


def test_a_pack_that_was_never_measured_with_the_served_one_needs_force(client: TestClient, settings: Settings) -> None:
    for prompts in ("p", "q"):
        put_pack(settings.home, "math", 2.0, prompts=prompts)
    deploy(client, pack="math@1")
    refused = client.patch("/v1/deployments/pair", json={"pack": "math@2"})
    assert code(refused, 409) == ("pack_not_compared", "pack")
    assert "math@2 and math@1, which pair serves, have no measurement in common; `force`" in refused.text
    assert refused.headers["x-should-retry"] == "false"
    assert client.patch("/v1/deployments/pair", json={"pack": "math@2", "force": True}).json()["pack"] == "math@2"
    assert client.post("/v1/deployments/pair/rollback", json={}).json()["pack"] == "math@1"


def test_what_one_measurement_says_of_both_decides(client: TestClient, settings: Settings) -> None:
    put_pack(settings.home, "math", 9.0, prompts="a")
    put_pack(settings.home, "math", 2.0, prompts="b", rivals={"math@1": 2.1})
    put_pack(settings.home, "math", 2.0, prompts="c", rivals={"math@1": 2.0}, fixed=("f", {"math@3": 2.5}))
    put_pack(settings.home, "math", 9.0, prompts="d", fixed=("f", {"math@4": 2.4}))
    deploy(client, pack="math@1")

    def swap(pack: str) -> Any:
        return client.patch("/v1/deployments/pair", json={"pack": pack})

    assert "2.000, below the 2.100 of math@1" in swap("math@2").text
    assert swap("math@3").json()["pack"] == "math@3"  # equal: a person asked for it
    assert "2.400, below the 2.500 of math@3" in swap("math@4").text
    assert swap("math@1").json()["pack"] == "math@1"


def test_the_champion_is_measured_or_pinned(client: TestClient, settings: Settings) -> None:
    for length in (2.0, 2.5, 2.4):
        put_pack(settings.home, "math", length)
    body = client.get("/v1/packs/math").json()
    assert (body["latest"], body["champion"], body["champion_pinned"]) == (3, 2, False)
    assert [each["id"] for each in body["versions"]] == ["math@3", "math@2", "math@1"]
    assert body["versions"][0]["evaluation"]["acceptance_length"] == 2.4
    assert deploy(client, pack="math@champion").json()["pack"] == "math@2"
    pinned = client.put("/v1/packs/math/champion", json={"version": 1}).json()
    assert (pinned["champion"], pinned["champion_pinned"]) == (1, True)
    assert deploy(client, name="second", pack="math@champion").json()["pack"] == "math@1"
    assert client.put("/v1/packs/math/champion", json={"version": None}).json()["champion"] == 2
    assert code(client.put("/v1/packs/math/champion", json={"version": 7}), 404)[1] == "pack"
    assert code(client.put("/v1/packs/none/champion", json={"version": None}), 404)[1] == "pack"
    assert [each["name"] for each in client.get("/v1/packs").json()["data"]] == ["math"]


def test_a_deleted_deployment_frees_its_name(client: TestClient) -> None:
    deploy(client)
    assert client.delete("/v1/deployments/pair").json() == {"name": "pair", "object": "deployment", "deleted": True}
    assert code(client.delete("/v1/deployments/pair"), 404) == ("not_found", "name")
    assert client.get("/v1/models").json()["data"] == []
    assert deploy(client, base_draft=None).status_code == 201


def keys(store: JobStore, *owners: str) -> list[dict[str, str]]:
    scopes = ["jobs:read", "jobs:write", "infer"]
    return [{"authorization": f"Bearer {store.keys.create(owner, 'test', scopes, None)[1]}"} for owner in owners]


def test_another_owners_deployment_does_not_exist_but_its_name_is_taken(client: TestClient, store: JobStore) -> None:
    mine, other = keys(store, "ada", "bob")
    assert client.post("/v1/deployments", json=BODY, headers=mine).status_code == 201
    for method, path, body in (
        ("GET", "", None),
        ("PATCH", "", {"replicas": 2}),
        ("POST", "/rollback", {}),
        ("DELETE", "", None),
    ):
        answer = client.request(method, f"/v1/deployments/pair{path}", json=body, headers=other)
        assert code(answer, 404) == ("not_found", "name")
    assert client.get("/v1/deployments", headers=other).json()["data"] == []
    assert client.get("/v1/models", headers=other).json()["data"] == []
    taken = client.post("/v1/deployments", json=BODY, headers=other)
    assert code(taken, 409) == ("name_taken", "name")
    (admin,) = ({"authorization": f"Bearer {store.keys.create(owner, 'x', ['admin'], None)[1]}"} for owner in ("root",))
    assert client.get("/v1/deployments/pair", headers=admin).json()["owner"] == "ada"
    assert client.get("/v1/models", headers=mine).json()["data"][0]["id"] == "pair"


def test_another_owners_pack_cannot_be_deployed(client: TestClient, store: JobStore, settings: Settings) -> None:
    config = AdaptConfig(target=TargetSpec(model="org/model"))
    hers, _ = store.jobs.create(config, owner="ada")
    his, _ = store.jobs.create(config, owner="bob")
    put_pack(settings.home, "math", 2.0, job_id=hers.id)
    put_pack(settings.home, "math", 2.5, job_id=his.id)
    ada, bob = keys(store, "ada", "bob")
    made = client.post("/v1/deployments", json={**BODY, "pack": "math@latest"}, headers=ada).json()
    assert (made["pack"], made["job_id"]) == ("math@1", hers.id)
    assert code(client.patch("/v1/deployments/pair", json={"pack": "math@2"}, headers=ada), 404)[1] == "pack"
    assert [each["version"] for each in client.get("/v1/packs/math", headers=bob).json()["versions"]] == [2]
    assert client.put("/v1/packs/math/champion", json={"version": 1}, headers=bob).status_code == 404


def test_looking_needs_one_of_two_scopes_and_changing_another(client: TestClient, store: JobStore) -> None:
    for scope, status in (("jobs:read", 200), ("infer", 200), ("jobs:write", 403)):
        headers = {"authorization": f"Bearer {store.keys.create('a', 'k', [scope], None)[1]}"}
        assert client.get("/v1/deployments", headers=headers).status_code == status
        written = client.post("/v1/deployments", json={**BODY, "name": "x"}, headers=headers)
        assert written.status_code == (201 if scope == "jobs:write" else 403)


def test_a_target_must_lie_under_an_allowed_root(
    client: TestClient, tmp_path: Path, new_target_dir: Callable[..., Path]
) -> None:
    for root, status in ((tmp_path / "allowed", 201), (tmp_path / "elsewhere", 400)):
        new_target_dir(root / "m", "llama")
        assert deploy(client, name=root.name, model=str(root / "m")).status_code == status


def test_an_owner_may_have_so_many_and_no_more(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"max_deployments_per_owner": 2}))) as client:
        for name in ("a", "b"):
            assert deploy(client, name=name).status_code == 201
        assert code(deploy(client, name="c"), 429) == ("quota_exceeded", None)
        assert deploy(client, name="a").status_code == 200  # an equal one is there
