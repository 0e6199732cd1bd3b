"""What a finished job does to the deployment of its name: files in, rows out, through the dispatcher itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pack_files import put_pack

from api.services.dispatcher import Dispatcher
from api.settings import Settings
from eda_service.artifacts.rundir import RunDir
from eda_service.config import AdaptConfig, TargetSpec
from eda_service.jobstore import Deployment, JobStore, Status

TARGET = TargetSpec(model="org/by-hand")
CONFIG = AdaptConfig(target=TARGET, served_name="math")


@pytest.fixture
def store(settings: Settings) -> Iterator[JobStore]:
    opened = JobStore(settings.store_url)
    yield opened
    opened.close()


@pytest.fixture
def dispatcher(store: JobStore, settings: Settings) -> Iterator[Dispatcher]:
    made = Dispatcher(store, settings)
    yield made
    made.stop()


def finish(dispatcher: Dispatcher, store: JobStore, settings: Settings, length: float, **config: object) -> str:
    """A job started by hand publishes `math`, and the dispatcher sees it; returns the job's id."""
    job_id = f"by-hand-{len(store.known_ids())}"
    run = RunDir.of_job(job_id, settings.home)
    run.create(CONFIG, origin="ray")
    dispatcher.run_once()
    run.succeed(put_pack(settings.home, "math", length, job_id=job_id, **config))  # type: ignore[arg-type]
    dispatcher.run_once()
    assert store.get(job_id).status is Status.SUCCEEDED
    return job_id


def kept(store: JobStore, job_id: str) -> list[str]:
    return [event.message for event in store.events(job_id)[0] if event.type == "deployment_kept"]


def change(store: JobStore, **changes: object) -> Deployment:
    current = store.deployment("math")
    return store.put_deployment(current.model_copy(update=changes), made_by="local", reason="by hand")


def test_the_first_job_deploys_and_a_better_one_swaps(
    dispatcher: Dispatcher, store: JobStore, settings: Settings
) -> None:
    first = finish(dispatcher, store, settings, 2.0)
    second = finish(dispatcher, store, settings, 2.1)
    deployment = store.deployment("math")
    assert (deployment.pack, deployment.pack_ref, deployment.job_id) == ("math@2", "math@latest", second)
    assert [(each.pack, each.job_id) for each in store.revisions("math")] == [("math@2", second), ("math@1", first)]
    assert store.revisions("math")[0].reason == "published math@2, serving as math"


def test_a_worse_pack_is_published_and_not_served(dispatcher: Dispatcher, store: JobStore, settings: Settings) -> None:
    finish(dispatcher, store, settings, 2.35)
    worse = finish(dispatcher, store, settings, 1.82)
    assert store.get(worse).result_pack == "math@2"
    assert store.deployment("math").pack == "math@1"
    (why,) = kept(store, worse)
    assert why.startswith("acceptance_regression: ")
    assert "1.820" in why
    assert "2.350" in why
    assert store.events(worse)[0][-1].message == "published math@2, math is as it was"


def test_a_deployment_set_to_a_version_stays_there(dispatcher: Dispatcher, store: JobStore, settings: Settings) -> None:
    finish(dispatcher, store, settings, 2.0)
    change(store, pack_ref="math@1")
    (why,) = kept(store, finish(dispatcher, store, settings, 3.0))
    assert "math is set to math@1" in why
    change(store, pack_ref="math@latest")
    assert kept(store, finish(dispatcher, store, settings, 3.1)) == []
    assert store.deployment("math").pack == "math@3"


def test_a_deployment_that_follows_the_champion_takes_only_that(
    dispatcher: Dispatcher, store: JobStore, settings: Settings
) -> None:
    finish(dispatcher, store, settings, 2.0)
    store.pin_champion("local", "math", 1)
    change(store, pack_ref="math@champion")
    (why,) = kept(store, finish(dispatcher, store, settings, 3.0))
    assert "math follows math@champion, which is math@1" in why
    store.pin_champion("local", "math", None)
    assert kept(store, finish(dispatcher, store, settings, 3.1)) == []
    assert store.deployment("math").pack == "math@3"


def test_a_base_draft_alone_gives_way_to_a_pack_that_beats_it(
    dispatcher: Dispatcher, store: JobStore, settings: Settings
) -> None:
    alone = Deployment(name="math", target=TARGET.model_dump(mode="json"), base_draft="small@1", pack=None)
    store.put_deployment(alone.model_copy(update={"labels": {"a": "b"}, "max_replicas": 2}), made_by="x", reason="x")
    assert len(kept(store, finish(dispatcher, store, settings, 1.3))) == 1
    assert kept(store, finish(dispatcher, store, settings, 1.5)) == []
    deployment = store.deployment("math")
    assert (deployment.pack, deployment.labels, deployment.max_replicas) == ("math@2", {"a": "b"}, 2)


def test_a_name_of_another_owner_is_not_taken_over(dispatcher: Dispatcher, store: JobStore, settings: Settings) -> None:
    hers = Deployment(name="math", owner="ada", target={"model": "org/hers"}, base_draft="small@1", pack=None)
    store.put_deployment(hers, made_by="ada", reason="hers")
    (why,) = kept(store, finish(dispatcher, store, settings, 3.0))
    assert "taken by another owner" in why
    assert store.deployment("math").target == {"model": "org/hers"}


def test_a_change_in_between_is_not_overwritten(
    dispatcher: Dispatcher, store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(dispatcher, store, settings, 2.0)
    real, raced = store.transition, []

    def transition(*args: object, **kwargs: object) -> object:
        if not raced:
            raced.append(change(store, pack_ref="math@1"))
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "transition", transition)
    assert len(kept(store, finish(dispatcher, store, settings, 3.0))) == 1
    assert store.deployment("math").pack == "math@1"
