"""The dispatcher over a scripted dashboard: a job that the cluster can never run holds up no other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_dashboard import Dashboard
from scripted_service import scripted_service

from api.dispatcher.dispatcher import Dispatcher
from api.jobs.schemas import AdaptationBody
from api.settings import Settings
from eda_service.config.job import AdaptConfig
from eda_service.jobstore import Job, JobStore, Status
from eda_service.planning.placement import need_of
from eda_service.records import Stage
from eda_service.storage.runs.run import RunDir


class Clock:
    """Time that moves when told to, starting at the real time because heartbeats carry that."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with scripted_service() as service:
        yield Dashboard(service)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path, clock: Clock) -> Iterator[JobStore]:
    home.mkdir()
    opened = JobStore(f"sqlite:///{home / 'eda.db'}", clock=clock)
    yield opened
    opened.close()


@pytest.fixture(params=[False], ids=lambda grows: "grows" if grows else "stays")
def grows(request: pytest.FixtureRequest) -> bool:
    """Whether the cluster adds nodes as jobs ask for them."""
    return bool(request.param)


@pytest.fixture
def dispatcher(home: Path, dashboard: Dashboard, store: JobStore, clock: Clock, grows: bool) -> Iterator[Dispatcher]:
    settings = Settings(home=home, ray_dashboard_url=dashboard.url, max_running=1, cluster_grows=grows)
    made = Dispatcher(store, settings, clock=clock)
    yield made
    made.stop()


def queue(store: JobStore, seed: int, *, use_gpu: bool = False, ranks: int = 0) -> Job:
    """A job; `ranks` of vLLM run its target."""
    target = {"engine": "vllm", "vllm": {"tensor_parallel_size": ranks}} if ranks else {}
    config = AdaptConfig.model_validate(
        {
            "target": {"model": "org/model", **target},
            "served_name": f"pair-{seed}",
            "seed": seed,
            "train": {"use_gpu": use_gpu},
        }
    )
    return store.jobs.create(config, need=need_of(config))[0]


def types(store: JobStore, job: Job) -> list[str]:
    return [event.type for event in store.events.of(job.id)[0]]


@pytest.mark.parametrize("grows", [False, True], indirect=True)
def test_of_ten_jobs_with_one_that_wants_gpus_nine_run(
    dispatcher: Dispatcher, dashboard: Dashboard, store: JobStore, home: Path, clock: Clock, grows: bool
) -> None:
    jobs = [queue(store, seed, use_gpu=seed == 2) for seed in range(10)]
    hopeless = jobs[2]
    for _ in range(9):
        dispatcher.run_once()
        (running,) = [job for job in store.leases.occupying() if job.id != hopeless.id]
        RunDir.of_job(running.id, home).succeed(f"pack@{running.seq}")
        clock.now += 20
    dispatcher.run_once()
    assert {job.id for job in jobs if store.jobs.get(job.id).status is Status.SUCCEEDED} == {
        job.id for job in jobs if job.id != hopeless.id
    }
    # A cluster that grows has to see it; of any other Ray is told nothing, and it waits here.
    assert store.jobs.get(hopeless.id).status is (Status.RUNNING if grows else Status.QUEUED)
    assert types(store, hopeless).count("waiting_for_resources") == 1
    assert len(dashboard.submitted) == (10 if grows else 9)


def test_an_engine_that_no_node_holds_waits_with_its_reason_and_the_jobs_behind_it_run(
    dispatcher: Dispatcher, dashboard: Dashboard, store: JobStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dashboard.has(*[{"CPU": 8.0, "GPU": 1.0}] * 8)
    wide, behind = queue(store, 0, use_gpu=True, ranks=4), queue(store, 1, use_gpu=True)
    dispatcher.run_once()
    assert [store.jobs.get(job.id).status for job in (wide, behind)] == [Status.QUEUED, Status.RUNNING]
    assert dashboard.submitted == [f"{behind.id}-a1"]
    body = AdaptationBody.of(store.jobs.get(wide.id))
    assert body.waits_for is not None
    assert "asks for 2 CPUs and 4 GPUs of one node, and no node has more than 8 CPUs and 1 GPU" in body.waits_for
    (told,) = [event for event in store.events.of(wide.id)[0] if event.type == "waiting_for_resources"]
    assert (told.level, told.message) == ("warning", body.waits_for)
    assert AdaptationBody.of(store.jobs.get(behind.id)).waits_for is None
    dashboard.has({"CPU": 32.0, "GPU": 4.0})
    monkeypatch.setattr("eda_service.raycluster.nodes._KEPT_S", 0.0)
    RunDir.of_job(behind.id, home).succeed("pack@1")
    dispatcher.run_once()
    started = AdaptationBody.of(store.jobs.get(wide.id))
    assert (started.status, started.waits_for) == (Status.RUNNING, None)


@pytest.mark.parametrize("grows", [True], indirect=True)
def test_a_second_misfit_stays_in_the_queue_until_the_cluster_has_grown(
    dispatcher: Dispatcher, dashboard: Dashboard, store: JobStore, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = queue(store, 0, use_gpu=True), queue(store, 1, use_gpu=True)
    dispatcher.run_once()
    assert [store.jobs.get(job.id).status for job in (first, second)] == [Status.RUNNING, Status.QUEUED]
    assert types(store, second)[-1] == "waiting_for_resources"
    dashboard.has({"CPU": 16.0}, {"CPU": 8.0, "GPU": 8.0})
    monkeypatch.setattr("eda_service.raycluster.nodes._KEPT_S", 0.0)
    RunDir.of_job(first.id, home).succeed("pack@1")
    dispatcher.run_once()
    assert store.jobs.get(second.id).status is Status.RUNNING


def test_where_the_cluster_does_not_say_what_it_has_every_job_counts(
    dispatcher: Dispatcher, dashboard: Dashboard, store: JobStore
) -> None:
    dashboard.is_silent()
    first, second = queue(store, 0, use_gpu=True), queue(store, 1)
    dispatcher.run_once()
    assert [store.jobs.get(job.id).status for job in (first, second)] == [Status.RUNNING, Status.QUEUED]
    assert "waiting_for_resources" not in types(store, first)


def test_a_job_whose_process_waits_in_ray_is_not_silent(
    dispatcher: Dispatcher, dashboard: Dashboard, store: JobStore, clock: Clock
) -> None:
    job = queue(store, 0)
    dispatcher.run_once()
    dashboard.statuses[job.id + "-a1"] = "PENDING"
    clock.now += 10 * 3600
    dispatcher.run_once()
    assert store.jobs.get(job.id).status is Status.RUNNING
    dashboard.statuses[job.id + "-a1"] = "RUNNING"  # it runs, and says nothing
    dispatcher.run_once()
    assert store.jobs.get(job.id).error is None
    assert types(store, job)[-1] == "attempt_lost"


def test_an_adopted_job_that_waits_for_gpus_takes_no_place(dispatcher: Dispatcher, store: JobStore, home: Path) -> None:
    run = RunDir.of_job("by-hand", home)
    config = {"target": {"model": "org/by-hand"}, "served_name": "x", "train": {"use_gpu": True}}
    run.create(AdaptConfig.model_validate(config), origin="ray")
    run.progress(Stage.VALIDATE, step=0, total_steps=1)
    job = queue(store, 1)
    dispatcher.run_once()
    assert {each.id for each in store.leases.occupying()} == {"by-hand", job.id}
