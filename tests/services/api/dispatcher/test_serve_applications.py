"""What Serve and replicas answer becomes states, and what is wanted one PUT. A scripted server speaks for Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted_service import Answer, ScriptedService, scripted_service
from sqlalchemy import text

from api.deployments.live import DeploymentState, Live, look
from api.deployments.replicas import ReplicaClient
from api.dispatcher.serve_applications import Serving
from eda_service.jobstore import Deployment, JobStore
from eda_service.raycluster.serve_api import ServeApi
from eda_service.raycluster.serve_plan import Listen, application_of, group_key

TARGET = {"model": "org/base"}
KEY = group_key(TARGET)
APP = application_of(KEY)
SERVE = "/api/serve/applications/"
VARIANTS = f"/groups/{KEY}/internal/variants"
PAIR = Deployment(name="pair", uid="u1", target=TARGET, base_draft="d@1", pack="p@2")


@pytest.fixture
def ray() -> Iterator[ScriptedService]:
    """The dashboard and Serve's proxy in one."""
    with scripted_service() as opened:
        opened.on("PUT", SERVE, Answer({}))
        opened.on("GET", SERVE, Answer({"applications": {}}))
        yield opened


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobStore]:
    opened = JobStore(f"sqlite:///{tmp_path_factory.mktemp('db') / 'eda.db'}")
    yield opened
    opened.close()


@pytest.fixture
def serving(ray: ScriptedService, store: JobStore) -> Iterator[Serving]:
    made = Serving(store, ServeApi(ray.url), Listen("127.0.0.1", 8701))
    yield made
    made.close()


def runs(status: str, *names: str, message: str = "", num_running: int = 1) -> Answer:
    replicas = [{"state": "RUNNING"}] * num_running + [{"state": "STARTING"}]
    details = {"status": status, "message": message, "deployments": {"Endpoint": {"replicas": replicas}}}
    return Answer({"applications": dict.fromkeys(names or (APP,), details)})


def state(ray: ScriptedService, serving: Serving, deployment: Deployment = PAIR, away: str | None = None) -> Live:
    serving.reconcile()
    replicas = ReplicaClient(ray.url)
    try:
        return look([deployment], serving.applications, replicas, {}, away=away)[deployment.name]
    finally:
        replicas.close()


def loaded(pack: str | None, **more: Any) -> Answer:
    variant = {"name": "pair", "uid": "u1", "base_draft": "d@1", "pack": pack, "loaded_at": 1, "num_running": 3}
    return Answer({"base_bytes": 1000, "variants": [variant | {"adapter_bytes": 20, "pack_bytes": 30}], **more})


def test_nothing_deployed_starts_nothing(ray: ScriptedService, serving: Serving) -> None:
    serving.reconcile()
    assert ray.seen("PUT", SERVE) == []
    assert serving.status is None


def test_the_wanted_state_is_put_once_and_again_when_serve_has_lost_it(
    ray: ScriptedService, serving: Serving, store: JobStore
) -> None:
    stored = store.deployments.put(PAIR, made_by="x", reason="x")
    serving.reconcile()
    ray.on("GET", SERVE, runs("RUNNING"))
    serving.reconcile()
    (put,) = ray.seen("PUT", SERVE)
    assert [each["name"] for each in put.body["applications"]] == [APP]
    ray.on("GET", SERVE, Answer({"applications": {}}))  # Ray was restarted
    serving.reconcile()
    ray.on("GET", SERVE, runs("RUNNING"))
    store.deployments.put(stored.model_copy(update={"pack": "p@3"}), made_by="x", reason="x")
    serving.reconcile()
    puts = ray.seen("PUT", SERVE)
    assert len(puts) == 3
    assert puts[-1].body["applications"][0]["deployments"][0]["user_config"]["models"][0]["pack"] == "p@3"


def test_the_last_deployment_takes_its_application_with_it(
    ray: ScriptedService, serving: Serving, store: JobStore
) -> None:
    store.deployments.put(PAIR, made_by="x", reason="x")
    serving.reconcile()
    store.deployments.delete("pair")
    ray.on("GET", SERVE, runs("RUNNING"))
    serving.reconcile()
    assert ray.seen("PUT", SERVE)[-1].body["applications"] == []
    ray.on("GET", SERVE, Answer({"applications": {}}))
    serving.reconcile()
    assert len(ray.seen("PUT", SERVE)) == 2


def test_an_application_of_an_earlier_version_is_removed(ray: ScriptedService, serving: Serving) -> None:
    ray.on("GET", SERVE, runs("RUNNING", "eda"))
    serving.reconcile()
    (put,) = ray.seen("PUT", SERVE)
    assert put.body["applications"] == []


def test_the_whole_is_as_well_as_its_worst_part(ray: ScriptedService, serving: Serving) -> None:
    for statuses, word in ((("RUNNING", "DEPLOYING"), "DEPLOYING"), (("UNHEALTHY", "RUNNING"), "UNHEALTHY")):
        parts = {str(place): {"status": status} for place, status in enumerate(statuses)}
        ray.on("GET", SERVE, Answer({"applications": parts}))
        serving.reconcile()
        assert serving.status == word


def test_a_deployment_is_ready_once_a_replica_has_the_wanted_pack(ray: ScriptedService, serving: Serving) -> None:
    assert state(ray, serving).state is DeploymentState.PENDING
    ray.on("GET", SERVE, runs("DEPLOYING", num_running=0))
    assert state(ray, serving).state is DeploymentState.LOADING
    assert ray.seen("GET", VARIANTS) == []  # no replica that could answer
    ray.on("GET", SERVE, runs("DEPLOYING"))
    ray.on("GET", VARIANTS, loaded("p@1"))
    swapping = state(ray, serving)
    assert swapping.state is DeploymentState.LOADING
    assert swapping.variant is not None
    assert swapping.variant.pack == "p@1"
    ray.on("GET", SERVE, runs("RUNNING"))
    ray.on("GET", VARIANTS, loaded("p@2"))
    ready = state(ray, serving)
    assert (ready.state, ready.reason, ready.num_replicas, ready.base_bytes) == (DeploymentState.READY, None, 1, 1000)
    assert ready.variant is not None
    assert (ready.variant.adapter_bytes, ready.variant.pack_bytes, ready.variant.num_running) == (20, 30, 3)
    assert state(ray, serving, away="Ray does not answer").reason == "Ray does not answer"


def test_replicas_that_serve_does_not_list_during_a_change_run_on(ray: ScriptedService, serving: Serving) -> None:
    ray.on("GET", VARIANTS, loaded("p@2"))
    building = Answer({"applications": {APP: {"status": "DEPLOYING", "message": "", "deployments": {}}}})
    ray.on("GET", SERVE, building)
    assert state(ray, serving).state is DeploymentState.LOADING
    ray.on("GET", SERVE, runs("RUNNING"))
    assert state(ray, serving).state is DeploymentState.READY
    ray.on("GET", SERVE, building)
    unlisted = state(ray, serving)
    assert (unlisted.state, unlisted.num_replicas) == (DeploymentState.READY, 1)


def test_what_a_replica_has_loaded_for_another_of_the_same_name_is_not_shown(
    ray: ScriptedService, serving: Serving
) -> None:
    """Nor what an older replica says, which knows no uids."""
    ray.on("GET", SERVE, runs("RUNNING"))
    ray.on("GET", VARIANTS, loaded("p@2"))
    remade = state(ray, serving, PAIR.model_copy(update={"uid": "u2"}))
    assert (remade.state, remade.variant) == (DeploymentState.LOADING, None)
    older = {"name": "pair", "base_draft": "d@1", "pack": "p@2", "loaded_at": 1, "num_running": 3}
    ray.on("GET", VARIANTS, Answer({"variants": [older]}))
    assert (state(ray, serving).state, state(ray, serving).variant) == (DeploymentState.LOADING, None)


def test_what_failed_says_why(ray: ScriptedService, serving: Serving) -> None:
    ray.on("GET", SERVE, runs("RUNNING"))
    failures = [
        {
            "name": "pair",
            "uid": "u1",
            "base_draft": "d@1",
            "pack": "p@2",
            "reason": "the pack was made for another target",
        }
    ]
    ray.on("GET", VARIANTS, loaded("p@1", failed=failures))
    failed = state(ray, serving)
    assert (failed.state, failed.reason) == (DeploymentState.FAILED, "the pack was made for another target")
    for other in (PAIR.model_copy(update={"pack": "p@3"}), PAIR.model_copy(update={"uid": "u2"})):
        assert state(ray, serving, other).state is DeploymentState.LOADING
    assert state(ray, serving, PAIR.model_copy(update={"pack": "p@1"})).state is DeploymentState.READY
    ray.on("GET", SERVE, runs("DEPLOY_FAILED", message="no module", num_running=0))
    assert state(ray, serving).reason == "DEPLOY_FAILED: no module"


def test_a_replica_that_does_not_answer_is_not_ready(ray: ScriptedService, serving: Serving) -> None:
    ray.on("GET", SERVE, runs("RUNNING"))
    for answer in (Answer(drop=True), Answer(body=b"<html>", status=503), Answer({"variants": 3})):
        ray.on("GET", VARIANTS, answer)
        assert state(ray, serving).state is DeploymentState.LOADING


def damage(store: JobStore, name: str) -> None:
    with store.database.write.begin() as session:
        session.execute(text("UPDATE deployments SET target = '{}' WHERE name = :name"), {"name": name})


def models_of(put: Any) -> dict[str, list[str]]:
    """Models by application."""
    return {
        each["name"]: [model["name"] for model in each["deployments"][0]["user_config"]["models"]]
        for each in put.body["applications"]
    }


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_is_served_under_a_damaged_row_is_served_on(
    ray: ScriptedService, serving: Serving, store: JobStore, is_restarted: bool
) -> None:
    """By what was applied last, or after a restart by what Serve remembers."""
    other = {"model": "org/other"}
    for made in (
        PAIR,
        PAIR.model_copy(update={"name": "twin"}),
        PAIR.model_copy(update={"name": "o", "target": other}),
    ):
        store.deployments.put(made, made_by="x", reason="x")
    serving.reconcile()
    before = ray.seen("PUT", SERVE)[-1].body["applications"]
    running = {each["name"]: {"status": "RUNNING", "deployed_app_config": each} for each in before}
    ray.on("GET", SERVE, Answer({"applications": running}))
    damage(store, "pair")
    damage(store, "o")
    twin = store.deployments.get("twin")
    store.deployments.put(twin.model_copy(update={"pack": "p@3"}), made_by="x", reason="x")
    if is_restarted:
        again = Serving(store, ServeApi(ray.url), Listen("127.0.0.1", 8701))
        again.reconcile()
        again.close()
    else:
        serving.reconcile()
    put = ray.seen("PUT", SERVE)[-1]
    assert models_of(put) == {APP: ["pair", "twin"], application_of(group_key(other)): ["o"]}
    served = {model["name"]: model["pack"] for each in put.body["applications"]
              for model in each["deployments"][0]["user_config"]["models"]}  # fmt: skip
    assert served == {"pair": "p@2", "twin": "p@3", "o": "p@2"}
    num_puts = len(ray.seen("PUT", SERVE))
    if not is_restarted:
        serving.reconcile()
        assert len(ray.seen("PUT", SERVE)) == num_puts
    (shown,) = [each for each in store.deployments.all(unreadable=True) if each.name == "pair"]
    live = look([shown], serving.applications, ReplicaClient(ray.url), {}, away=None)["pair"]
    assert live.state is DeploymentState.FAILED
    assert "target" in (live.reason or "")
