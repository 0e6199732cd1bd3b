"""The dispatcher against run directories driven by files. Nothing answers for Ray here; with Ray: tests/integration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pack_files import put_pack
from scripted_service import Answer, scripted_service

from api.dispatcher.dispatcher import Dispatcher
from api.settings import Settings
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import DatasetInvalidError
from eda_service.jobstore import JobStore, Status
from eda_service.records import Stage
from eda_service.storage.files import write_json
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Succeeded


class Clock:
    """Time that moves when told to, starting at the real time because heartbeats carry that."""

    def __init__(self, now_s: float) -> None:
        self.now = now_s

    def __call__(self) -> float:
        return self.now


CONFIG = AdaptConfig(target=TargetSpec(model="org/by-hand"), served_name="pair")


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def store(settings: Settings, clock: Clock) -> Iterator[JobStore]:
    opened = JobStore(settings.store_url, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def dispatcher(store: JobStore, settings: Settings, clock: Clock) -> Iterator[Dispatcher]:
    made = Dispatcher(store, settings, clock=clock)
    yield made
    made.stop()


@pytest.fixture
def foreign(settings: Settings) -> RunDir:
    """A job that somebody started on the cluster by hand."""
    run = RunDir.of_job("by-hand-1", settings.home)
    run.create(CONFIG, origin="ray")
    return run


def test_a_job_started_by_hand_is_adopted_and_followed(
    dispatcher: Dispatcher, store: JobStore, settings: Settings, foreign: RunDir
) -> None:
    dispatcher.run_once()
    job = store.jobs.get("by-hand-1")
    assert (job.status, job.origin, job.attempt) == (Status.RUNNING, "ray", 1)
    foreign.event("stage_started", "training", stage=Stage.TRAIN)
    foreign.progress(Stage.TRAIN, step=5, total_steps=10, eta_s=3)
    dispatcher.run_once()
    job = store.jobs.get("by-hand-1")
    assert job.stage == "train"
    assert job.progress is not None
    assert job.progress["percent"] == 50.0
    foreign.succeed(put_pack(settings.home, "pack", 2.0, job_id="by-hand-1"))
    dispatcher.run_once()
    job = store.jobs.get("by-hand-1")
    assert (job.status, job.result_pack) == (Status.SUCCEEDED, "pack@1")
    deployment = store.deployments.all()[0]
    assert (deployment.name, deployment.pack, deployment.target["model"]) == ("pair", "pack@1", "org/by-hand")
    types = [event.type for event in store.events.of("by-hand-1")[0]]
    assert types == ["job_adopted", "stage_started", "job_succeeded"]


def test_a_silent_job_started_by_hand_is_lost(
    dispatcher: Dispatcher, store: JobStore, foreign: RunDir, clock: Clock
) -> None:
    foreign.progress(Stage.TRAIN, step=5, total_steps=10)
    dispatcher.run_once()
    clock.now += 119
    dispatcher.run_once()
    assert store.jobs.get("by-hand-1").status is Status.RUNNING
    clock.now += 5
    dispatcher.run_once()
    job = store.jobs.get("by-hand-1")
    assert job.status is Status.FAILED
    assert job.error is not None
    assert job.error["code"] == "worker_lost"


def test_old_idempotency_keys_are_forgotten(dispatcher: Dispatcher, store: JobStore, clock: Clock) -> None:
    first, _ = store.jobs.create(CONFIG, idempotency_key="k", force=True)
    clock.now += 29 * 86_400
    dispatcher.run_once()
    assert store.jobs.create(CONFIG, idempotency_key="k", force=True) == (first, False)
    clock.now += 2 * 86_400
    dispatcher.run_once()
    assert store.jobs.create(CONFIG, idempotency_key="k", force=True)[1]


def test_a_failed_job_keeps_its_code(dispatcher: Dispatcher, store: JobStore, foreign: RunDir) -> None:
    dispatcher.run_once()
    foreign.fail(DatasetInvalidError("empty", param="dataset.source"))
    dispatcher.run_once()
    job = store.jobs.get("by-hand-1")
    assert job.error == {"code": "dataset_invalid", "message": "empty", "param": "dataset.source", "retryable": False}
    assert store.deployments.all() == []


def test_a_corrupt_run_directory_fails_with_a_code(
    dispatcher: Dispatcher, store: JobStore, settings: Settings, foreign: RunDir
) -> None:
    write_json(settings.home / "runs" / "broken" / "job.json", {"id": "broken", "origin": "ray", "config": {}})
    dispatcher.run_once()
    dispatcher.run_once()
    assert store.jobs.known_ids() == {foreign.job_id}


def a_file(runs: Path) -> None:
    (runs / "left-here").write_bytes(b"x")


def a_directory_in_its_place(runs: Path) -> None:
    (runs / "strange" / "job.json").mkdir(parents=True)


def with_content(content: bytes) -> Callable[[Path], None]:
    def put(runs: Path) -> None:
        (runs / "strange").mkdir()
        (runs / "strange" / "job.json").write_bytes(content)

    return put


@pytest.mark.parametrize(
    ("put", "num_told"),
    [
        pytest.param(a_file, 0, id="a file among the runs"),
        pytest.param(a_directory_in_its_place, 1, id="a directory as job.json"),
        pytest.param(with_content(b'{"origin": "ra'), 1, id="cut short"),
        pytest.param(with_content(b"\xff\xfe\x00"), 1, id="no text"),
        pytest.param(with_content(b"[1, 2]"), 1, id="no object"),
        pytest.param(with_content(b'{"origin": "ray", "created_at": null}'), 1, id="without a config"),
    ],
)
def test_what_is_no_job_among_the_runs_is_told_once_and_holds_up_nothing(
    dispatcher: Dispatcher,
    store: JobStore,
    settings: Settings,
    foreign: RunDir,
    caplog: pytest.LogCaptureFixture,
    put: Callable[[Path], None],
    num_told: int,
) -> None:
    put(settings.home / "runs")
    dispatcher.run_once()
    dispatcher.run_once()
    assert store.jobs.known_ids() == {foreign.job_id}
    assert sum("is not a job" in record.getMessage() for record in caplog.records) == num_told


def test_a_new_dispatcher_finds_everything_again(
    dispatcher: Dispatcher, store: JobStore, settings: Settings, foreign: RunDir, clock: Clock
) -> None:
    foreign.event("first", "one")
    dispatcher.run_once()
    foreign.event("second", "two")
    foreign.succeed(put_pack(settings.home, "pack", 2.0, job_id="by-hand-1"))
    second = Dispatcher(store, settings, clock=clock)
    second.run_once()
    assert store.jobs.get("by-hand-1").status is Status.RUNNING  # the first one still has the lease
    clock.now += settings.lease_s + 2
    second.run_once()
    second.stop()
    types = [event.type for event in store.events.of("by-hand-1")[0]]
    assert types == ["job_adopted", "first", "second", "job_succeeded"]


def test_a_dispatcher_that_stops_leaves_its_jobs_to_the_next_at_once(
    dispatcher: Dispatcher, store: JobStore, settings: Settings, foreign: RunDir, clock: Clock
) -> None:
    dispatcher.run_once()
    dispatcher.stop()
    foreign.succeed(put_pack(settings.home, "pack", 2.0, job_id="by-hand-1"))
    second = Dispatcher(store, settings, clock=clock)
    second.run_once()
    second.stop()
    assert store.jobs.get("by-hand-1").status is Status.SUCCEEDED


def test_a_result_of_an_earlier_attempt_ends_nothing(settings: Settings) -> None:
    run = RunDir.of_job("job", settings.home)
    run.create(CONFIG, origin="api")
    RunDir(run.root, attempt=1).succeed("pack@1")
    assert run.read_result(attempt=1) is not None
    assert run.read_result(attempt=2) is None
    RunDir(run.root, attempt=2).succeed("pack@2")
    result = run.read_result(attempt=2)
    assert isinstance(result, Succeeded)
    assert result.pack == "pack@2"


def test_without_a_cluster_jobs_stay_queued(dispatcher: Dispatcher, store: JobStore) -> None:
    job, _ = store.jobs.create(CONFIG)
    dispatcher.run_once()
    assert store.jobs.get(job.id).status is Status.QUEUED
    assert not dispatcher.is_ray_reachable


def test_a_claimed_job_waits_for_the_cluster_and_says_so_once(
    dispatcher: Dispatcher, store: JobStore, settings: Settings
) -> None:
    job, _ = store.jobs.create(CONFIG)
    store.leases.claim(max_running=1, holder=dispatcher.holder)
    dispatcher.run_once()
    dispatcher.run_once()
    assert store.jobs.get(job.id).status is Status.RUNNING
    types = [event.type for event in store.events.of(job.id)[0]]
    assert types == ["job_created", "attempt_started", "waiting_for_cluster"]
    assert not Path(settings.home / "runs" / job.id).exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", '{"attempt": 1, "status": "failed"}'),
        ("result.json", "{"),
        ("events.jsonl", '{"at": 1}\n'),
        ("events.jsonl", "{\n"),
        ("progress.json", "{"),
    ],
)
def test_files_that_cannot_be_used_end_their_own_job_and_no_other(
    settings: Settings, store: JobStore, clock: Clock, caplog: pytest.LogCaptureFixture, name: str, content: str
) -> None:
    """Only after a while: a file may be half of a write. The log tells of it once."""
    with scripted_service() as ray:
        ray.on("GET", "/api/version", Answer({"session_name": "s"}))
        ray.on("POST", "/api/jobs/", Answer({}))
        changes = {"ray_dashboard_url": ray.url, "max_running": 2, "max_attempts": 1}
        dispatcher = Dispatcher(store, settings.model_copy(update=changes), clock=clock)
        bad, good = (store.jobs.create(CONFIG, force=True)[0] for _ in range(2))
        dispatcher.run_once()
        for job in (bad, good):
            status = {"submission_id": f"{job.id}-a1", "status": "RUNNING"}
            ray.on("GET", f"/api/jobs/{job.id}-a1", Answer(status))
            ray.on("POST", f"/api/jobs/{job.id}-a1/stop", Answer({}))
        (settings.home / "runs" / bad.id / name).write_text(content)
        RunDir(settings.home / "runs" / good.id, attempt=1).succeed("pair@1")
        dispatcher.run_once()
        assert store.jobs.get(good.id).status is Status.SUCCEEDED
        dispatcher.run_once()
        assert store.jobs.get(bad.id).status is Status.RUNNING
        clock.now += settings.grace_s + 1
        dispatcher.run_once()
        dispatcher.stop()
        found = store.jobs.get(bad.id)
        assert (found.status, (found.error or {}).get("code")) == (Status.FAILED, "artifact_corrupt")
        assert len(ray.seen("POST", f"/api/jobs/{bad.id}-a1/stop")) == 1
    assert sum(bad.id in record.getMessage() for record in caplog.records if record.levelname == "ERROR") == 1


def test_a_step_that_fails_keeps_no_other_from_its_turn(
    settings: Settings, dispatcher: Dispatcher, store: JobStore, foreign: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(**_: object) -> int:
        raise RuntimeError("no")

    store.jobs.forget_keys = broken  # type: ignore[method-assign]
    dispatcher._tidied_at = 0.0
    for _ in range(3):
        before = dispatcher.last_pass_at
        dispatcher.run_once()
        assert dispatcher.last_pass_at == before  # /health shows that a pass was not whole
        dispatcher._tidied_at = 0.0
    assert store.jobs.get(foreign.job_id).status is Status.RUNNING
    assert sum("forgetting old keys failed" in record.getMessage() for record in caplog.records) == 1
