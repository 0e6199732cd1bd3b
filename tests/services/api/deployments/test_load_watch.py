"""What cannot be loaded is `failed` at its first failure and not tried for ever. A scripted server speaks for Ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted_service import Answer, ScriptedService, scripted_service

from api.deployments.live import DeploymentState, Live, look
from api.deployments.loading import MAX_ATTEMPTS, LoadWatch
from api.deployments.replicas import ReplicaClient
from api.dispatcher.serve_applications import Serving
from eda_service.errors import ConflictError
from eda_service.jobstore import Deployment, DeploymentEvent, JobStore
from eda_service.raycluster.serve_api import ServeApi
from eda_service.raycluster.serve_plan import Listen, group_key

TARGET = {"model": "org/base"}
KEY = group_key(TARGET)
SERVE = "/api/serve/applications/"
VARIANTS = f"/groups/{KEY}/internal/variants"


class World:
    """A store, its dispatcher's pass over Serve, and the cluster that is told what to answer.

    Attributes:
        now: Seconds since the epoch.
    """

    def __init__(self, ray: ScriptedService, url: str) -> None:
        self.ray, self.now = ray, 1_000_000.0
        self.store = JobStore(url, clock=lambda: self.now)
        self.replicas = ReplicaClient(ray.url)
        self.serving = Serving(self.store, ServeApi(ray.url), Listen("127.0.0.1", 8701))
        self.watch = LoadWatch(self.store, self.replicas, lambda: None)
        ray.on("PUT", SERVE, Answer({}))
        self.serve()

    def close(self) -> None:
        self.serving.close()
        self.replicas.close()
        self.store.close()

    def put(self, name: str = "pair", pack: str | None = "p@1") -> Deployment:
        return self.store.deployments.put(
            Deployment(name=name, target=TARGET, base_draft="d@1", pack=pack), made_by="x", reason="x"
        )

    def serve(self, status: str = "RUNNING", message: str = "", *, num_running: int = 1) -> None:
        """Serve runs what was put last."""
        puts = self.ray.seen("PUT", SERVE)
        self.ray.on("GET", SERVE, Answer({"applications": {
            each["name"]: {"status": status, "message": message, "deployed_app_config": each,
                           "deployments": {"Endpoint": {"replicas": [{"state": "RUNNING"}] * num_running}}}
            for each in (puts[-1].body["applications"] if puts else [])
        }}))  # fmt: skip

    def say(self, *loaded: tuple[Deployment, str | None], failed: list[dict[str, Any]] | None = None) -> None:
        """What the replica has: packs by deployment."""
        variants = [
            {"name": each.name, "uid": each.uid, "base_draft": "d@1", "pack": pack, "loaded_at": 1, "num_running": 0}
            for each, pack in loaded
        ]
        self.ray.on("GET", VARIANTS, Answer({"base_bytes": 1, "variants": variants, "failed": failed or []}))

    def pass_once(self) -> None:
        """One pass, after which Serve has what was put."""
        self.serving.reconcile()
        self.watch.run_once(self.serving.applications)
        self.serving.reconcile()
        self.serve()

    def models(self) -> dict[str, tuple[str | None, int]]:
        """Pack and attempt of what Serve was told to serve last, by name."""
        applications = self.ray.seen("PUT", SERVE)[-1].body["applications"]
        models = [each for app in applications for each in app["deployments"][0]["user_config"]["models"]]
        return {each["name"]: (each["pack"], each.get("attempt", 0)) for each in models}

    def live(self, name: str = "pair", away: str | None = None) -> Live:
        self.serving.reconcile()
        wanted = self.store.deployments.get(name)
        return look([wanted], self.serving.applications, self.replicas, self.store.loads.all(), away=away)[name]

    def events(self, name: str = "pair") -> list[DeploymentEvent]:
        return self.store.drifts.events(name)[0]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with scripted_service() as ray:
        made = World(ray, f"sqlite:///{tmp_path_factory.mktemp('db') / 'eda.db'}")
        yield made
        made.close()


def failure(of: Deployment, attempt: int = 0, *, may_pass: bool = False, reason: str = "hybrid attention") -> Any:
    return {
        "name": of.name, "uid": of.uid, "base_draft": "d@1", "pack": of.pack, "reason": reason, "attempt": attempt,
        "code": "target_incompatible", "may_pass": may_pass,
    }  # fmt: skip


def test_what_the_model_is_fails_at_once_and_its_application_goes(world: World) -> None:
    pair = world.put()
    world.pass_once()
    world.say(failed=[failure(pair)])
    assert world.live().state is DeploymentState.FAILED  # also before the watch has looked
    world.pass_once()
    assert world.ray.seen("PUT", SERVE)[-1].body["applications"] == []
    for away in (None, "Ray does not answer"):
        found = world.live(away=away)
        assert (found.state, found.reason) == (DeploymentState.FAILED, "hybrid attention")
    (event,) = world.events()
    assert (event.type, event.level) == ("load_failed", "error")
    assert event.message == "hybrid attention; put that right, then `eda deployments restart pair`"
    assert event.data["code"] == "target_incompatible"
    num_puts = len(world.ray.seen("PUT", SERVE))
    world.now += 100_000
    world.pass_once()
    again = Serving(world.store, ServeApi(world.ray.url), Listen("127.0.0.1", 8701))  # the service was restarted
    again.reconcile()
    again.close()
    assert len(world.ray.seen("PUT", SERVE)) == num_puts
    assert len(world.events()) == 1


def test_the_others_of_its_group_are_served_on(world: World) -> None:
    bad, good = world.put("pair"), world.put("good", None)
    world.pass_once()
    world.say((good, None), failed=[failure(bad)])
    world.pass_once()
    assert world.models() == {"good": (None, 0)}
    world.say((good, None))
    assert (world.live("good").state, world.live("pair").state) == (DeploymentState.READY, DeploymentState.FAILED)
    assert world.events("good") == []


def test_what_the_machine_lacks_is_tried_with_growing_delays_and_then_no_more(world: World) -> None:
    pair = world.put()
    for attempt, delay_s in enumerate((10, 30, 90, 270)):
        world.pass_once()
        assert world.models() == {"pair": ("p@1", attempt)}
        world.say(failed=[failure(pair, attempt, may_pass=True, reason="out of memory")])
        world.pass_once()
        assert world.live().state is DeploymentState.LOADING
        assert f"attempt {attempt + 1} of 5 failed and another follows: out of memory" in str(world.live().reason)
        newest = world.events()[0]
        assert (newest.level, newest.data["retry_in_s"], len(world.events())) == ("warning", delay_s, attempt + 1)
        assert newest.message == f"out of memory; attempt {attempt + 1} of 5, the next in {delay_s} s"
        world.now += delay_s - 1
        world.pass_once()
        assert world.models()["pair"][1] == attempt
        world.now += 1
        world.pass_once()
        assert world.models()["pair"][1] == attempt + 1
    world.say(failed=[failure(pair, 4, may_pass=True, reason="out of memory")])
    world.pass_once()
    assert (world.live().state, world.live().reason) == (DeploymentState.FAILED, "out of memory")
    assert "the last; put that right" in world.events()[0].message
    assert len(world.events()) == MAX_ATTEMPTS == 5
    world.now += 100_000
    world.pass_once()
    assert world.ray.seen("PUT", SERVE)[-1].body["applications"] == []


def test_an_attempt_that_goes_well_ends_the_counting(world: World) -> None:
    pair = world.put()
    world.pass_once()
    world.say(failed=[failure(pair, may_pass=True)])
    world.pass_once()
    world.now += 10
    world.pass_once()
    assert world.live().state is DeploymentState.LOADING  # what an earlier attempt has left is not this one's
    world.say((pair, "p@1"))
    world.pass_once()
    assert (world.live().state, world.live().reason) == (DeploymentState.READY, None)
    assert [each.type for each in world.events()] == ["loaded", "load_failed"]
    num_asked = len(world.ray.seen("GET", VARIANTS))
    world.pass_once()
    assert len(world.ray.seen("GET", VARIANTS)) == num_asked  # what is loaded is not asked for again
    assert world.store.loads.all()["pair"].num_failures == 0


def test_a_change_that_does_not_load_leaves_what_was_served(world: World) -> None:
    pair = world.put()
    world.pass_once()
    world.say((pair, "p@1"))
    world.pass_once()
    changed = world.store.deployments.put(pair.model_copy(update={"pack": "p@2"}), made_by="x", reason="x")
    world.pass_once()
    assert world.models() == {"pair": ("p@2", 0)}
    world.say((pair, "p@1"), failed=[failure(changed)])
    world.pass_once()
    assert world.models()["pair"][0] == "p@1"  # also a new replica loads what can be loaded
    world.say((pair, "p@1"))
    found = world.live()
    assert (found.state, found.reason) == (DeploymentState.FAILED, "hybrid attention")
    assert found.variant is not None
    assert found.variant.pack == "p@1"
    assert world.events()[0].message.endswith("p@1 answers as before")
    rolled_back = changed.model_copy(update={"pack": "p@1"})
    world.store.deployments.put(rolled_back, made_by="x", reason="x")
    world.pass_once()
    assert (world.live().state, world.models()["pair"][0]) == (DeploymentState.READY, "p@1")


def test_started_again_it_is_tried_from_the_beginning(world: World) -> None:
    pair = world.put()
    with pytest.raises(ConflictError, match="has not failed"):
        world.store.loads.restart("pair", owner=None, made_by="ada")
    world.pass_once()
    world.say(failed=[failure(pair)])
    world.pass_once()
    world.store.loads.restart("pair", owner=None, made_by="ada")
    world.pass_once()
    assert world.models() == {"pair": ("p@1", 1)}
    assert world.live().state is DeploymentState.LOADING
    assert (world.events()[0].type, world.events()[0].message) == ("restarted", "started again by ada")
    world.say(failed=[failure(pair, 1)])
    world.pass_once()
    assert world.live().state is DeploymentState.FAILED
    world.store.deployments.delete("pair")
    assert world.store.loads.all() == {}
    made_again = world.put()
    world.pass_once()
    assert world.models() == {"pair": ("p@1", 0)}
    world.say(failed=[failure(pair, 0)])
    world.pass_once()
    assert world.store.loads.all() == {}  # that was another deployment's
    assert made_again.uid != pair.uid


def test_replicas_that_cannot_start_count_once_for_each_attempt(world: World) -> None:
    world.put()
    world.pass_once()
    world.serve("DEPLOY_FAILED", "no module", num_running=0)
    assert world.live().state is DeploymentState.LOADING
    world.serving.reconcile()
    for _ in range(3):
        world.watch.run_once(world.serving.applications)
    assert len(world.events()) == 1
    assert world.events()[0].message == "no replica could start: no module; attempt 1 of 5, the next in 10 s"
    world.now += 10
    world.watch.run_once(world.serving.applications)
    world.watch.run_once(world.serving.applications)  # Serve still says so of the attempt before
    assert len(world.events()) == 1


def test_two_services_over_one_database_count_a_failure_once(world: World) -> None:
    pair = world.put()
    world.pass_once()
    world.say(failed=[failure(pair, may_pass=True)])
    world.serving.reconcile()
    other = LoadWatch(world.store, world.replicas, lambda: None)
    for watch in (world.watch, other, world.watch):
        watch.run_once(world.serving.applications)
    assert (len(world.events()), world.store.loads.all()["pair"].num_failures) == (1, 1)
