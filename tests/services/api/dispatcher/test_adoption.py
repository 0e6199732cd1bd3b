"""What has no row any more is found, told and made a row again: after rows were deleted, or an older copy came back."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pack_files import put_pack
from scripted_service import Answer, ScriptedService, refusal

from api.app import create_app
from api.dispatcher.dispatcher import Dispatcher
from api.settings import Settings
from api.vault import open_vault
from eda_service.config.deploy import DeployConfig
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.jobstore import Job, JobStore, Status
from eda_service.records import Stage
from eda_service.scopes import Scope
from eda_service.storage.published.registry import reserve_version
from eda_service.storage.runs.run import RunDir

CONFIG = AdaptConfig(
    target=TargetSpec(model="org/model"), served_name="pair", deploy=DeployConfig(min_gain=0.0, min_speed_gain=0.0)
)
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" * 2
HOOK = {"url": "https://hooks.example.org/x", "secret": SECRET}


class Clock:
    """Time that moves when told to, starting at the real time because heartbeats carry that."""

    def __init__(self) -> None:
        import time

        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Service:
    """Store and dispatcher, stopped and started again over the same home."""

    def __init__(self, settings: Settings, ray: ScriptedService) -> None:
        self.settings, self.ray, self.clock = settings, ray, Clock()
        self.start()

    def start(self) -> None:
        self.store = JobStore(self.settings.store_url, vault=open_vault(self.settings), clock=self.clock)
        self.dispatcher = Dispatcher(self.store, self.settings, clock=self.clock)

    def stop(self) -> None:
        self.dispatcher.stop()
        self.store.close()

    def lose(self, *statements: str) -> None:
        """Stop, change the database behind its back, start again."""
        self.stop()
        with sqlite3.connect(self.settings.home / "eda.db") as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        self.start()

    def queue(self, owner: str = "ada", name: str = "pair", **options: object) -> Job:
        job, _ = self.store.jobs.create(
            CONFIG.model_copy(update={"served_name": name}),
            owner=owner,
            labels={"team": "math"},
            priority=70,
            stage_deadlines={"train": 60},
            webhook=HOOK,
            force=True,
            **options,  # type: ignore[arg-type]
        )
        return job

    def run(self, **options: object) -> Job:
        """A job that Ray has accepted."""
        job = self.queue(**options)  # type: ignore[arg-type]
        self.dispatcher.run_once()
        self.ray.on("GET", f"/api/jobs/{job.id}-a1", Answer({"submission_id": f"{job.id}-a1", "status": "RUNNING"}))
        return self.store.jobs.get(job.id)

    def run_dir(self, job: Job, attempt: int = 1) -> RunDir:
        return RunDir(self.settings.home / "runs" / job.id, attempt=attempt)

    def types(self, job: Job) -> list[str]:
        return [event.type for event in self.store.events.of(job.id)[0]]


@pytest.fixture
def service(settings: Settings, ray: ScriptedService) -> Iterator[Service]:
    changes = {"ray_dashboard_url": ray.url, "max_running": 8, "serve": False, "grace_s": 30.0}
    made = Service(settings.model_copy(update=changes), ray)
    yield made
    made.stop()


ALL_ROWS = ("DELETE FROM idempotency_keys", "DELETE FROM events", "DELETE FROM webhook_outbox", "DELETE FROM jobs")


def test_a_running_job_comes_back_with_all_that_its_row_said(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    job = service.run(max_attempts=5)
    before = service.store.adoption.kept_row_fields(job.id)
    service.run_dir(job).event("stage_started", "training", stage=Stage.TRAIN)
    service.run_dir(job).progress(Stage.TRAIN, step=1, total_steps=2)
    assert SECRET not in (service.run_dir(job).root / "job.json").read_text()
    service.lose(*ALL_ROWS)
    assert service.store.jobs.known_ids() == set()
    service.dispatcher.run_once()
    found = service.store.jobs.get(job.id)
    same = (
        "id",
        "owner",
        "config",
        "labels",
        "priority",
        "max_attempts",
        "stage_deadlines",
        "webhook_url",
        "created_at",
    )
    assert {name: getattr(found, name) for name in same} == {name: getattr(job, name) for name in same}
    assert (found.status, found.attempt, found.stage, found.origin) == (Status.RUNNING, 1, "train", "api")
    assert service.store.adoption.kept_row_fields(job.id) == before
    assert service.types(job) == ["job_adopted", "stage_started"]
    (told,) = [event for event in service.store.events.of(job.id)[0] if event.type == "job_adopted"]
    assert (told.level, "row was not in the database any more" in told.message) == ("warning", True)
    assert sum("adopted" in record.getMessage() for record in caplog.records) == 1
    service.dispatcher.run_once()
    assert service.types(job) == ["job_adopted", "stage_started"]
    assert len(service.ray.seen("POST", "/api/jobs/")) == 1  # it runs on, and is not submitted again


def test_a_result_that_is_there_ends_it_and_its_webhook_is_told(service: Service) -> None:
    job = service.run()
    service.run_dir(job).succeed(put_pack(service.settings.home, "pair", 2.0, job_id=job.id))
    service.lose(*ALL_ROWS)
    service.dispatcher.run_once()
    found = service.store.jobs.get(job.id, owner="ada")
    assert (found.status, found.result_pack) == (Status.SUCCEEDED, "pair@1")
    assert [(each.name, each.owner, each.pack) for each in service.store.deployments.all()] == [
        ("pair", "ada", "pair@1")
    ]
    (due,) = service.store.outbox.due()
    assert (due.url, due.secret) == (HOOK["url"], SECRET)


def test_an_attempt_that_ray_does_not_know_is_tried_again_after_the_grace_period(service: Service) -> None:
    job = service.run()
    service.run_dir(job, attempt=2).progress(Stage.TRAIN, step=1, total_steps=2)
    service.lose(*ALL_ROWS)
    service.ray.on("GET", f"/api/jobs/{job.id}-a2", refusal(404, "not_found"))
    service.dispatcher.run_once()
    assert service.store.jobs.get(job.id).attempt == 2  # the highest that its files tell of
    service.clock.now += 31
    service.dispatcher.run_once()
    assert service.store.jobs.get(job.id).status is Status.QUEUED
    service.clock.now += 60
    service.dispatcher.run_once()
    assert service.store.jobs.get(job.id).attempt == 3
    assert service.ray.seen("POST", "/api/jobs/")[-1].body["submission_id"] == f"{job.id}-a3"


def test_after_an_older_copy_everything_is_back(service: Service) -> None:
    old = service.run(name="old", idempotency_key="first", request_sha256="1")
    service.stop()
    copy = service.settings.home.parent / "copy"
    copy.mkdir()
    for path in service.settings.home.glob("eda.db*"):
        shutil.copy2(path, copy / path.name)
    service.start()
    new = service.run(name="new", idempotency_key="second", request_sha256="2")
    service.run_dir(old).succeed(put_pack(service.settings.home, "old", 2.0, job_id=old.id))
    service.dispatcher.run_once()
    service.run_dir(new).succeed(put_pack(service.settings.home, "new", 2.0, job_id=new.id))
    service.stop()
    for path in service.settings.home.glob("eda.db*"):
        path.unlink()
    for path in copy.iterdir():
        shutil.copy2(path, service.settings.home / path.name)
    service.start()
    assert service.store.jobs.known_ids() == {old.id}
    service.dispatcher.run_once()
    service.clock.now += service.settings.lease_s + 2  # the copy says that the dispatcher of then has the lease
    service.dispatcher.run_once()
    assert {service.store.jobs.get(job.id).status for job in (old, new)} == {Status.SUCCEEDED}
    assert {each.name for each in service.store.deployments.all()} == {"old", "new"}
    # A key of the older copy replays; one that was lost is free, and is not answered with somebody else's job.
    assert service.queue(name="old", idempotency_key="first", request_sha256="1").id == old.id
    assert service.queue(name="new", idempotency_key="second", request_sha256="2").id != new.id


def test_a_key_whose_job_was_lost_makes_a_new_one(service: Service) -> None:
    job = service.queue(idempotency_key="k", request_sha256="1")
    service.lose("DELETE FROM events", "DELETE FROM jobs")
    again = service.queue(idempotency_key="k", request_sha256="1")
    assert again.id != job.id
    assert service.queue(idempotency_key="k", request_sha256="1").id == again.id


def test_a_job_json_of_a_version_before_is_the_local_owners(service: Service) -> None:
    run = RunDir.of_job("adapt_before", service.settings.home)
    run.create(CONFIG, origin="api")
    service.dispatcher.run_once()
    job = service.store.jobs.get("adapt_before")
    assert (job.owner, job.max_attempts) == ("local", service.settings.max_attempts)
    assert "kept no owner" in service.store.events.of(job.id)[0][0].message


def test_an_older_pack_is_not_deployed_instead_of_a_newer(service: Service) -> None:
    first = service.run()
    assert put_pack(service.settings.home, "pair", 2.0, job_id=first.id) == "pair@1"
    service.run_dir(first).succeed("pair@1")
    service.dispatcher.run_once()
    second = service.run()
    assert put_pack(service.settings.home, "pair", 2.0, job_id=second.id) == "pair@2"
    service.run_dir(second).succeed("pair@2")
    service.dispatcher.run_once()
    assert [each.pack for each in service.store.deployments.all()] == ["pair@2"]
    service.lose(f"DELETE FROM jobs WHERE id = '{first.id}'")
    service.dispatcher.run_once()
    assert service.store.jobs.get(first.id).status is Status.SUCCEEDED
    assert [each.pack for each in service.store.deployments.all()] == ["pair@2"]
    assert "deployment_kept" in service.types(first)


def test_a_cancelled_job_comes_back_as_cancelled(service: Service) -> None:
    job = service.run()
    service.store.jobs.transition(job.id, Status.CANCELLING, event="cancel_requested", message="x")
    service.ray.on("GET", f"/api/jobs/{job.id}-a1", Answer({"submission_id": f"{job.id}-a1", "status": "STOPPED"}))
    service.dispatcher.run_once()
    assert service.store.jobs.get(job.id).status is Status.CANCELLED
    service.lose(*ALL_ROWS)
    service.dispatcher.run_once()
    assert service.store.jobs.get(job.id).status is Status.CANCELLED
    assert len(service.ray.seen("POST", "/api/jobs/")) == 1


def test_a_row_that_is_lost_while_the_service_runs_is_found_within_the_hour(service: Service) -> None:
    job = service.run()
    with sqlite3.connect(service.settings.home / "eda.db") as connection:
        connection.execute("DELETE FROM jobs")
    connection.close()
    service.dispatcher.run_once()
    assert service.store.jobs.known_ids() == set()
    service.clock.now += 3601
    service.dispatcher.run_once()
    assert service.store.jobs.known_ids() == {job.id}


def test_events_that_are_there_are_not_imported_twice(service: Service) -> None:
    job = service.run()
    service.run_dir(job).event("first", "one")
    service.dispatcher.run_once()
    service.run_dir(job).event("second", "two")
    service.lose("DELETE FROM jobs")
    service.dispatcher.run_once()
    types = service.types(job)
    assert (types.count("first"), types.count("second"), types.count("job_adopted")) == (1, 1, 1)


def test_events_alone_become_a_failed_job(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    job = service.queue()
    service.lose("DELETE FROM jobs")
    service.dispatcher.run_once()
    found = service.store.jobs.get(job.id)
    assert (found.status, found.owner, (found.error or {})["code"]) == (Status.FAILED, "local", "artifact_corrupt")
    assert service.types(job) == ["job_created", "job_adopted"]
    assert sum("adopted" in record.getMessage() for record in caplog.records) == 1


def test_a_pack_whose_job_left_nothing_is_an_admins_until_it_is_the_local_owners(service: Service) -> None:
    home = service.settings.home
    assert put_pack(home, "lost", 2.0, job_id="adapt_lost") == "lost@1"
    assert put_pack(home, "free", 2.0) == "free@1"
    keys = {
        owner: service.store.keys.create(owner, "k", scopes)[1]
        for owner, scopes in (("ada", ["jobs:read"]), ("local", ["jobs:read"]), ("root", list(Scope)))
    }
    client = TestClient(create_app(service.settings))

    def seen(owner: str) -> set[str]:
        answer = client.get("/v1/packs", headers={"authorization": f"Bearer {keys[owner]}"})
        return {each["name"] for each in answer.json()["data"]}

    assert (seen("ada"), seen("local"), seen("root")) == ({"free"}, {"free"}, {"free", "lost"})
    service.lose()
    service.dispatcher.run_once()
    assert (seen("ada"), seen("local"), seen("root")) == ({"free"}, {"free", "lost"}, {"free", "lost"})
    job = service.store.jobs.get("adapt_lost")
    assert (job.status, job.owner, job.result_pack) == (Status.SUCCEEDED, "local", "lost@1")
    assert service.types(job) == ["job_adopted"]
    client.app.state.services.store.close()  # type: ignore[attr-defined]


def test_what_cannot_be_adopted_is_told_once_and_holds_up_nothing(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    home = service.settings.home
    for name, facts in {
        "adapt_other": {
            "id": "adapt_another",
            "origin": "api",
            "created_at": 1,
            "config": CONFIG.model_dump(mode="json"),
        },
        "adapt_owner": {"id": "adapt_owner", "origin": "api", "created_at": 1, "owner": 5, "config": {}},
        "name with spaces": {"origin": "api", "created_at": 1, "config": CONFIG.model_dump(mode="json")},
    }.items():
        (home / "runs" / name).mkdir(parents=True)
        (home / "runs" / name / "job.json").write_text(json.dumps(facts))
    version = reserve_version("broken", "adapt_gone", home)
    (home / "packs" / "broken" / str(version)).mkdir()
    (home / "packs" / "broken" / str(version) / "manifest.json").write_text("{}")
    good = RunDir.of_job("adapt_zzz", home)
    good.create(CONFIG, origin="api")
    service.dispatcher.run_once()
    service.dispatcher.run_once()
    assert service.store.jobs.known_ids() == {"adapt_zzz"}
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("is not a job" in text for text in told) == 3
    assert sum("cannot be adopted" in text for text in told) == 1
    assert Path(home / "runs" / "adapt_other" / "job.json").exists()
