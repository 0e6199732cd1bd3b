"""What a finished job does to the deployment of its name: files in, rows out, through the dispatcher itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pack_files import put_pack

from api.dispatcher import rivalry
from api.dispatcher.dispatcher import Dispatcher
from api.settings import Settings
from eda_service.config.deploy import DeployConfig
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.jobstore import Deployment, JobStore, Status
from eda_service.records import Stage
from eda_service.storage.runs.rivals import Rivals, read_rivals
from eda_service.storage.runs.run import RunDir

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


def finish(
    dispatcher: Dispatcher,
    store: JobStore,
    settings: Settings,
    length: float,
    *,
    deploy: dict[str, object] | None = None,
    **pack: object,
) -> str:
    """A job started by hand publishes `math`, and the dispatcher sees it; returns the job's id."""
    job_id = f"by-hand-{len(store.jobs.known_ids())}"
    run = RunDir.of_job(job_id, settings.home)
    run.create(CONFIG.model_copy(update={"deploy": DeployConfig.model_validate(deploy or {})}), origin="ray")
    dispatcher.run_once()
    run.succeed(put_pack(settings.home, "math", length, job_id=job_id, **pack))  # type: ignore[arg-type]
    dispatcher.run_once()
    assert store.jobs.get(job_id).status is Status.SUCCEEDED
    return job_id


def kept(store: JobStore, job_id: str) -> list[str]:
    return [event.message for event in store.events.of(job_id)[0] if event.type == "deployment_kept"]


def change(store: JobStore, **changes: object) -> Deployment:
    current = store.deployments.get("math")
    return store.deployments.put(current.model_copy(update=changes), made_by="local", reason="by hand")


def test_the_first_job_deploys_and_a_better_one_swaps(
    dispatcher: Dispatcher, store: JobStore, settings: Settings
) -> None:
    first = finish(dispatcher, store, settings, 2.0)
    second = finish(dispatcher, store, settings, 2.1, rivals={"math@1": 2.0})
    deployment = store.deployments.get("math")
    assert (deployment.pack, deployment.pack_ref, deployment.job_id) == ("math@2", "math@latest", second)
    assert [(each.pack, each.job_id) for each in store.deployments.revisions("math")] == [
        ("math@2", second),
        ("math@1", first),
    ]
    assert store.deployments.revisions("math")[0].reason == (
        "published math@2, serving as math, acceptance_length 2.100 against 2.000 of math@1, speed was not measured"
    )


def test_a_worse_pack_is_published_and_not_served(dispatcher: Dispatcher, store: JobStore, settings: Settings) -> None:
    finish(dispatcher, store, settings, 2.35)
    worse = finish(dispatcher, store, settings, 1.82, rivals={"math@1": 2.35})
    assert store.jobs.get(worse).result_pack == "math@2"
    assert store.deployments.get("math").pack == "math@1"
    (why,) = kept(store, worse)
    assert why.startswith("acceptance_regression: ")
    assert "1.820" in why
    assert "2.350" in why
    assert store.events.of(worse)[0][-1].message == "published math@2, math is as it was"


def test_a_deployment_set_to_a_version_stays_there(dispatcher: Dispatcher, store: JobStore, settings: Settings) -> None:
    finish(dispatcher, store, settings, 2.0)
    change(store, pack_ref="math@1")
    (why,) = kept(store, finish(dispatcher, store, settings, 3.0, rivals={"math@1": 2.0}))
    assert "math is set to math@1" in why
    change(store, pack_ref="math@latest")
    assert kept(store, finish(dispatcher, store, settings, 3.1, rivals={"math@1": 2.0})) == []
    assert store.deployments.get("math").pack == "math@3"


def test_what_its_owner_has_pinned_is_not_replaced(dispatcher: Dispatcher, store: JobStore, settings: Settings) -> None:
    finish(dispatcher, store, settings, 2.0)
    store.deployments.pin_champion("somebody", "math", 1)
    assert kept(store, finish(dispatcher, store, settings, 2.5, rivals={"math@1": 2.0})) == []
    store.deployments.pin_champion("local", "math", 1)  # not what is served
    assert kept(store, finish(dispatcher, store, settings, 3.0, rivals={"math@2": 2.5})) == []
    store.deployments.pin_champion("local", "math", 3)
    (why,) = kept(store, finish(dispatcher, store, settings, 4.0, rivals={"math@3": 3.0}))
    assert "math@3, which math serves, is pinned; `eda packs pin math --off` lets newer ones take over" in why
    assert store.deployments.get("math").pack == "math@3"
    store.deployments.pin_champion("local", "math", None)
    assert kept(store, finish(dispatcher, store, settings, 4.0, rivals={"math@3": 3.0})) == []
    assert store.deployments.get("math").pack == "math@5"


def test_a_deployment_that_follows_the_champion_takes_only_that(
    dispatcher: Dispatcher, store: JobStore, settings: Settings
) -> None:
    finish(dispatcher, store, settings, 2.0, fixed=("f", {"math@1": 2.0}))
    store.deployments.pin_champion("local", "math", 1)
    change(store, pack_ref="math@champion")
    beside = {"rivals": {"math@1": 2.0}}
    (why,) = kept(store, finish(dispatcher, store, settings, 3.0, fixed=("f", {"math@2": 1.9}), **beside))
    assert "math follows math@champion, which is math@1" in why
    store.deployments.pin_champion("local", "math", None)
    (why,) = kept(store, finish(dispatcher, store, settings, 3.0, fixed=("f", {"math@3": 2.0}), **beside))
    assert "math follows math@champion, which is math@1" in why  # equal there is no gain
    (why,) = kept(store, finish(dispatcher, store, settings, 2.0, fixed=("f", {"math@4": 2.5}), **beside))
    assert "too little gain" in why  # champion, and on its own prompts no better than what is served
    assert kept(store, finish(dispatcher, store, settings, 3.1, fixed=("f", {"math@5": 2.6}), **beside)) == []
    assert store.deployments.get("math").pack == "math@5"


def test_a_base_draft_alone_gives_way_to_a_pack_that_beats_it(
    dispatcher: Dispatcher, store: JobStore, settings: Settings
) -> None:
    alone = Deployment(name="math", target=TARGET.model_dump(mode="json"), base_draft="small@1", pack=None)
    store.deployments.put(alone.model_copy(update={"labels": {"a": "b"}, "max_replicas": 2}), made_by="x", reason="x")
    assert len(kept(store, finish(dispatcher, store, settings, 1.3))) == 1
    assert kept(store, finish(dispatcher, store, settings, 1.5)) == []
    deployment = store.deployments.get("math")
    assert (deployment.pack, deployment.labels, deployment.max_replicas) == ("math@2", {"a": "b"}, 2)


def test_a_name_of_another_owner_is_not_taken_over(dispatcher: Dispatcher, store: JobStore, settings: Settings) -> None:
    hers = Deployment(name="math", owner="ada", target={"model": "org/hers"}, base_draft="small@1", pack=None)
    store.deployments.put(hers, made_by="ada", reason="hers")
    (why,) = kept(store, finish(dispatcher, store, settings, 3.0))
    assert "taken by another owner" in why
    assert store.deployments.get("math").target == {"model": "org/hers"}


def test_a_change_in_between_is_not_overwritten(
    dispatcher: Dispatcher, store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(dispatcher, store, settings, 2.0)
    beside = {"rivals": {"math@1": 2.0}}
    real, raced = store.jobs.transition, []

    def transition(*args: object, **kwargs: object) -> object:
        if not raced:
            raced.append(change(store, pack_ref="math@1"))
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(store.jobs, "transition", transition)
    (why,) = kept(store, finish(dispatcher, store, settings, 3.0, **beside))
    assert "math is set to math@1" in why
    assert store.deployments.get("math").pack == "math@1"


NEW = 2.0


@pytest.mark.parametrize(
    ("length", "measured", "deploy", "why"),
    [
        (
            1.33,
            {"rivals": {"math@1": 2.30}, "speedup": 0.93},
            {},
            "acceptance_regression: .*1.330 against 2.300 of math@1",
        ),
        (NEW, {"rivals": {"math@1": 2.0}}, {}, "a gain of 1.000, deploy.min_gain is 1.02"),
        (NEW, {"rivals": {"math@1": 1.97}}, {}, "a gain of 1.015, deploy.min_gain is 1.02"),
        (NEW, {"rivals": {"math@1": 1.97}}, {"min_gain": 1.01}, None),
        (
            NEW,
            {"rivals": {"math@1": (1.9, 1.5)}, "speedup": 1.5},
            {},
            "a gain in speed of 1.000, which has to be above",
        ),
        (NEW, {"rivals": {"math@1": (1.9, 1.5)}, "speedup": 1.4}, {}, "speed 1.40x against 1.50x"),
        (NEW, {"rivals": {"math@1": (1.9, 1.5)}, "speedup": 1.4}, {"min_speed_gain": 0.9}, None),
        (NEW, {"rivals": {"math@1": (1.9, 1.5)}, "speedup": 1.4}, {"min_speed_gain": 0}, None),
        (NEW, {"rivals": {"math@1": (1.9, 1.5)}, "speedup": 1.4}, {"min_speed_gain": None}, None),
        (NEW, {"rivals": {"math@1": (1.9, 1.5)}, "speedup": 1.6}, {}, None),
        (NEW, {"rivals": {"math@1": (1.9, 0.5)}, "speedup": 0.8}, {}, None),
        (NEW, {"rivals": {"math@7": 1.0}}, {}, "was not measured beside math@1, which is served"),
        (
            NEW,
            {"unmeasured": {"math@1": "its base draft is gone"}},
            {},
            "could not .* beside math@1.*its base draft is gone",
        ),
        (NEW, {}, {"min_gain": 0, "min_speed_gain": 0}, None),
        (1.0, {"rivals": {"math@1": 2.0}}, {"min_gain": 0, "min_speed_gain": None}, None),
        (3.0, {"rivals": {"math@1": 2.0}}, {"enabled": False}, "deploy.enabled is false"),
    ],
)
def test_what_a_pack_has_to_gain_over_the_served_one(
    dispatcher: Dispatcher,
    store: JobStore,
    settings: Settings,
    length: float,
    measured: dict[str, object],
    deploy: dict[str, object],
    why: str | None,
) -> None:
    finish(dispatcher, store, settings, 2.30, base=1.3, speedup=1.78, base_speedup=1.1)
    job_id = finish(dispatcher, store, settings, length, base=1.3, deploy=deploy, **measured)
    told = kept(store, job_id)
    assert store.deployments.get("math").pack == ("math@2" if why is None else "math@1")
    assert store.jobs.get(job_id).result_pack == "math@2"
    if why is None:
        assert told == []
    else:
        assert re.search(why, told[0]), told


@pytest.mark.parametrize("served", ["nothing", "the base draft alone"])
@pytest.mark.parametrize(
    ("measured", "deploy", "why"),
    [
        ({"base": 1.33}, {}, "too little gain: .*1.330 against 1.330 of its base draft alone"),
        ({"base": 1.4}, {}, "acceptance_regression"),
        ({"base": 1.2}, {}, None),
        ({"base": 1.2, "speedup": 1.3, "base_speedup": 1.2}, {}, None),
        ({"base": 1.2, "speedup": 1.3, "base_speedup": 1.3}, {}, "has to be above deploy.min_speed_gain, 1"),
        ({"base": 1.2, "speedup": 0.93, "base_speedup": 0.9}, {}, "without a draft it is as fast"),
        ({"base": 1.2, "speedup": 0.93, "base_speedup": 0.9}, {"min_speed_gain": None}, None),
        ({"base": 1.2}, {"enabled": False}, "deploy.enabled is false"),
        ({"base": 1.9}, {"min_gain": 0, "min_speed_gain": 0}, None),
    ],
)
def test_a_pack_has_to_gain_over_its_base_draft_alone_where_no_other_is_served(
    dispatcher: Dispatcher,
    store: JobStore,
    settings: Settings,
    served: str,
    measured: dict[str, float],
    deploy: dict[str, object],
    why: str | None,
) -> None:
    if served != "nothing":
        alone = Deployment(name="math", target=TARGET.model_dump(mode="json"), base_draft="small@1", pack=None)
        store.deployments.put(alone, made_by="x", reason="x")
    job_id = finish(dispatcher, store, settings, 1.33, deploy=deploy, **measured)
    told = kept(store, job_id)
    packs = [each.pack for each in store.deployments.all()]
    if why is None:
        assert (packs, told) == (["math@1"], [])
    else:
        assert packs == ([] if served == "nothing" else [None])
        assert re.search(why, told[0]), told


def test_what_is_served_already_stays_as_it_is(dispatcher: Dispatcher, store: JobStore, settings: Settings) -> None:
    pack = put_pack(settings.home, "math", 2.0, job_id="by-hand-0")
    by_hand = Deployment(name="math", target={"model": "org/of-hers"}, base_draft="small@1", pack=pack, pack_ref=pack)
    store.deployments.put(by_hand, made_by="x", reason="x")
    run = RunDir.of_job("by-hand-0", settings.home)
    run.create(CONFIG, origin="ray")
    dispatcher.run_once()
    run.succeed(pack)
    dispatcher.run_once()
    assert (store.deployments.get("math").revision, store.deployments.get("math").target) == (
        1,
        {"model": "org/of-hers"},
    )
    assert kept(store, "by-hand-0") == []


def test_a_job_is_told_its_rivals_until_it_measures(
    dispatcher: Dispatcher, store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivalry, "_INTERVAL_S", 0.0)
    run = RunDir.of_job("running", settings.home)
    run.create(CONFIG, origin="ray")
    dispatcher.run_once()
    assert read_rivals(run).packs == {}
    finish(dispatcher, store, settings, 2.0, fixed=("f", {"math@1": 2.0}))
    dispatcher.run_once()
    assert read_rivals(run).packs == {"math@1": ("served", "champion")}
    finish(dispatcher, store, settings, 2.0, rivals={"math@1": 2.0}, fixed=("f", {"math@2": 2.5}))
    dispatcher.run_once()
    assert (read_rivals(run).served, read_rivals(run).champion) == ("math@1", "math@2")
    run.progress(Stage.EVALUATE, step=0, total_steps=1)
    dispatcher.run_once()
    change(store, pack=None)
    dispatcher.run_once()
    dispatcher.run_once()
    assert read_rivals(run).served == "math@1"


def test_another_owners_deployment_and_packs_are_no_rivals(
    dispatcher: Dispatcher, store: JobStore, settings: Settings
) -> None:
    hers, _ = store.jobs.create(CONFIG, owner="ada")
    pack = put_pack(settings.home, "math", 2.0, job_id=hers.id)
    store.deployments.put(
        Deployment(name="math", owner="ada", target=TARGET.model_dump(mode="json"), base_draft="small@1", pack=pack),
        made_by="ada",
        reason="x",
    )
    run = RunDir.of_job("his", settings.home)
    run.create(CONFIG, origin="ray")
    dispatcher.run_once()
    dispatcher.run_once()
    assert read_rivals(run) == Rivals(owner="local", served=None, champion=None)


def test_a_registry_that_cannot_be_read_holds_no_job_up(
    dispatcher: Dispatcher, store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> tuple[int, ...]:
        raise PermissionError("no")

    monkeypatch.setattr("api.packs.packs.PackService.numbers", broken)
    assert kept(store, finish(dispatcher, store, settings, 2.0)) == []
    assert store.deployments.get("math").pack == "math@1"
