"""One damaged row of any table against every loop of the service: nobody else waits, and every list answers.

The damage is written straight into a SQLite file, which keeps any value in any column; PostgreSQL's types let little of
it in (tests/services/jobstore/test_unreadable_rows.py has that). A scripted server speaks for Ray, Serve and replicas.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.testclient import TestClient
from html_pages import parse
from pack_files import put_pack
from poisoned_columns import CASES
from scripted_service import Answer, ScriptedService, scripted_service
from webhook_receiver import Receiver, webhook_receiver

from api.app import create_app
from api.auth import LOCAL
from api.dispatcher.dispatcher import Dispatcher
from api.dispatcher.webhooks import Webhooks
from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.group_metrics import GROUP_METRICS, GroupMetrics, VariantMetrics
from api.gateway.directory import Directory
from api.jobs.feed import EventFeed
from api.metrics.instruments import Instruments
from api.settings import Settings
from api.vault import open_vault
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.ids import new_file_id
from eda_service.jobstore import Deployment, JobStore, Status
from eda_service.jobstore.reading import Reader
from eda_service.raycluster.processes import free_port
from eda_service.raycluster.serve_plan import group_key
from eda_service.scopes import Scope
from eda_service.storage.inputs import input_files
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples import prompts

SERVE = "/api/serve/applications/"
HTML = {"accept": "text/html"}
NAMES = ("bad", "good", "last")
SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" * 2


def token_of(page: Any) -> str:
    return str(parse(page.text).all("input", name="token")[0].attributes["value"])


def target(name: str) -> dict[str, Any]:
    return TargetSpec(model=f"org/{name}").model_dump(mode="json")


@dataclass(frozen=True)
class Home:
    """A home as it was before the damage: three of everything, the first of which will be damaged."""

    path: Path
    ids: dict[str, str]
    keys: tuple[str, str]
    ended: tuple[str, ...]
    uids: dict[str, str]
    files: dict[str, str]


def config(name: str) -> AdaptConfig:
    return AdaptConfig(target=TargetSpec(model=f"org/{name}"), served_name=f"made-by-{name}")


def put_upload(store: JobStore, home: Path, name: str) -> str:
    """An uploaded file with its bytes; its id."""
    data = f'{{"prompt": "of {name}"}}\n'.encode()
    file_id = new_file_id()
    (input_files.directory(home, "files") / f"{file_id}.jsonl").write_bytes(data)
    told = {"owner": "local", "purpose": "fine-tune", "sha256": sha256(data).hexdigest(), "size_bytes": len(data)}
    counts = {"num_prompts": 1, "num_skipped": 0, "max_bytes_per_owner": 10**6}
    store.files.add(file_id, filename=f"{name}.jsonl", **told, **counts)  # type: ignore[arg-type]
    return file_id


@pytest.fixture(scope="module")
def receiver(certificate: tuple[Path, Path]) -> Iterator[Receiver]:
    with webhook_receiver(*certificate) as opened:
        yield opened


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Home:
    path = tmp_path_factory.mktemp("template")
    settings = Settings(home=path)
    store = JobStore(settings.store_url, vault=open_vault(settings))
    jobs = {}
    hook = {"url": receiver.url, "secret": SECRET}
    for role in ("running", "running_too"):
        jobs[role] = store.jobs.create(config(role), webhook=hook)[0].id
        assert store.leases.claim(max_running=9, holder="an earlier one", lease_s=1) is not None
        store.jobs.mark_submitted(jobs[role], ray_session="s")
    for role in ("queued", "queued_too"):
        jobs[role] = store.jobs.create(config(role), webhook=hook)[0].id
    ended, uids, files = [], {}, {}
    for name in NAMES:
        job, _ = store.jobs.create(config(f"ended-{name}"), webhook=hook, labels={"team": name}, idempotency_key=name)
        store.jobs.transition(job.id, Status.CANCELLED, event="job_cancelled", message="no more")
        ended.append(job.id)
        put_pack(path, name, 1.8, evaluation={"num_draft_tokens": 1, "num_prompts": 8})
        served = {"target": target(name), "base_draft": "small@1", "pack": f"{name}@1", "pack_ref": f"{name}@latest"}
        wanted = Deployment(name=name, drift={"min_rounds": 100}, **served)
        made = store.deployments.put(wanted, made_by="local", reason="x")
        uids[name] = made.uid
        store.drifts.record_crossing(name, made.uid, f"{name}@1", is_below=True, message="fell", data={"pack": name})
        store.deployments.pin_champion("local", name, 1)
        files[name] = put_upload(store, path, name)
    failure = {"reason": "no memory", "message": "no memory", "data": {}, "retry_in_s": 10**6, "serves": None}
    store.loads.record_failure("bad", uids["bad"], 0, **failure)  # type: ignore[arg-type]
    jobs["ended"] = ended[0]
    found = [store.keys.create("local", name, list(Scope)) for name in NAMES]
    store.leases.release(holder="an earlier one")
    store.close()
    return Home(path, jobs | {"key": found[0][0].id}, (found[0][1], found[1][1]), tuple(ended), uids, files)


@pytest.fixture(scope="module")
def ray() -> Iterator[ScriptedService]:
    """The dashboard, Serve and its replicas in one."""
    with scripted_service() as opened:
        yield opened


class World:
    """The service over a copy of the home, without its threads: each loop makes one pass when told to."""

    def __init__(self, home: Home, path: Path, ray: ScriptedService, certificate: Path) -> None:
        self.home, self.ray, self.path = home, ray, path
        self.settings = Settings(
            home=path,
            ray_dashboard_url=ray.url,
            serve_port=httpx.URL(ray.url).port or free_port(),
            max_running=3,
            webhook_private_addresses=True,
            webhook_ca_file=certificate,
        )
        shutil.copytree(home.path, path)
        app = create_app(self.settings)
        self.store: JobStore = app.state.services.store
        self.client = TestClient(app, raise_server_exceptions=False)
        page = self.client.get("/ui/login", headers=HTML)
        fields = {"token": token_of(page), "key": home.keys[1], "to": "/"}
        assert self.client.post("/ui/login", data=fields, headers=HTML, follow_redirects=False).status_code == 303
        self.client.headers["authorization"] = f"Bearer {home.keys[1]}"
        self.directory: Directory = app.state.services.directory

    def restore(self) -> None:
        """Everything as it was, and nobody remembers."""
        self.store.close()
        for each in self.path.glob("eda.db*"):
            each.unlink()
        shutil.copyfile(self.home.path / "eda.db", self.path / "eda.db")
        shutil.rmtree(self.path / "runs", ignore_errors=True)
        shutil.copytree(self.home.path / "files", self.path / "files", dirs_exist_ok=True)
        self.store.database.reader = Reader()
        self.ray.requests.clear()
        self.ray.on("GET", "/api/version", Answer({"session_name": "s"}))
        self.ray.on("POST", "/api/jobs/", Answer({}))
        self.ray.on("PUT", SERVE, Answer({}))
        self.ray.on("GET", SERVE, Answer({"applications": {}}))
        self.serve(100)
        self.directory.forget()
        self.directory.names(LOCAL)
        self.webhooks = Webhooks(self.store.outbox, self.settings, Instruments())
        self.dispatcher = Dispatcher(self.store, self.settings)
        self.dispatcher.serving.reconcile()
        self.dispatcher.drift.run_once()

    def close(self) -> None:
        self.client.close()
        self.store.close()

    def write(self, statement: str) -> int:
        """Straight into the file, as nothing of the service would."""
        with sqlite3.connect(self.path / "eda.db", timeout=30) as connection:
            changed = connection.execute(statement).rowcount
        connection.close()
        return changed

    def read(self, statement: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path / "eda.db", timeout=30)
        connection.text_factory = bytes
        found = connection.execute(statement).fetchall()
        connection.close()
        return found

    def serve(self, num_rounds: int) -> None:
        """Replicas that have done so many rounds, with low acceptance in the last hundred."""
        for name in NAMES:
            accepted = min(num_rounds, 100) * 8 // 10
            counts = ModelCounts(num_rounds=num_rounds, tried_at=[num_rounds], accepted_at=[accepted])
            uid = self.home.uids[name]
            found = GroupMetrics([VariantMetrics(uid, f"{name}@1", counts)], num_replicas=1)
            answer = Answer(headers={"content-type": "application/json"}, body=GROUP_METRICS.dump_json(found))
            self.ray.on("GET", f"/groups/{group_key(target(name))}/internal/metrics", answer)

    def put(self) -> dict[str, dict[str, Any]]:
        """The models of the last config that Serve was given, by name."""
        body = self.ray.seen("PUT", SERVE)[-1].body
        models = [model for each in body["applications"] for model in each["deployments"][0]["user_config"]["models"]]
        return {each["name"]: each for each in models}


@pytest.fixture(scope="module")
def opened(
    template: Home, tmp_path_factory: pytest.TempPathFactory, ray: ScriptedService, certificate: tuple[Path, Path]
) -> Iterator[World]:
    made = World(template, tmp_path_factory.mktemp("copy") / "home", ray, certificate[0])
    yield made
    made.close()


@pytest.fixture
def world(opened: World, receiver: Receiver) -> Iterator[World]:
    """High acceptance of every pack so far."""
    receiver.seen.clear()
    opened.restore()
    yield opened
    opened.dispatcher.stop()


@pytest.mark.parametrize(("table", "where", "name", "value"), CASES)
def test_one_damaged_row_keeps_nobody_waiting(
    world: World,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
    table: str,
    where: str,
    name: str,
    value: str,
) -> None:
    damaged = world.write(f"UPDATE {table} SET {name} = {value} WHERE {where.format(**world.home.ids)}")
    assert damaged >= 1
    ids = world.home.ids
    healthy = {role: job for role, job in ids.items() if job not in where.format(**ids) and role != "key"}

    # The dispatcher: what runs ends, what is queued starts, in the same pass.
    for role in ("running", "running_too"):
        RunDir.of_job(ids[role], world.path).create(config(role), origin="api")
        RunDir(world.path / "runs" / ids[role], attempt=1).succeed(f"{role}@1")
    world.dispatcher.run_once()
    for role, ended in (("running", True), ("running_too", True), ("queued", False), ("queued_too", False)):
        if role in healthy:
            status = world.store.jobs.get(healthy[role]).status
            assert status is (Status.SUCCEEDED if ended else Status.RUNNING), (role, status)
    submitted = {request.body["submission_id"] for request in world.ray.seen("POST", "/api/jobs/")}
    assert {f"{healthy[role]}-a1" for role in ("queued", "queued_too") if role in healthy} <= submitted

    # Serve: the others change, and what was served under a damaged row is served on.
    last = world.store.deployments.get("last")
    world.store.deployments.put(last.model_copy(update={"pack": "good@1"}), made_by="local", reason="x")
    world.dispatcher.serving.reconcile()
    models = world.put()
    assert {*NAMES} <= set(models)
    assert models["last"]["pack"] == "good@1"
    if name != "pack":
        assert models["bad"]["pack"] == "bad@1"

    # Drift: the fall of the others is seen.
    world.write("DELETE FROM deployment_drift WHERE name = 'good'")
    world.serve(300)
    world.dispatcher.drift.run_once()
    assert world.store.drifts.all()["good"].is_below
    assert world.dispatcher.drift.judgements[world.home.uids["good"]].ratio is not None

    # Webhooks: the others are delivered in this pass.
    world.webhooks.run_once()
    told = [json.loads(body)["data"]["id"] for _, body in receiver.seen]
    assert set(world.home.ended) - {ids["ended"]} <= set(told)
    assert ids["running_too"] in told
    if (table, name) == ("webhook_outbox", "secret"):
        assert ids["ended"] not in told  # never without its signature
    assert all("webhook-signature" in headers for headers, _ in receiver.seen)

    # The directory, and events: whoever asks for another gets it.
    world.directory.forget()
    assert {"good", "last"} <= set(world.directory.names(LOCAL))
    asyncio.run(_stream(world.store, ids["running_too"]))
    assert world.store.events.of(ids["running_too"])[0][-1].type == "webhook_delivered"

    # Keys: another one is good, and a damaged one is none or what it says.
    assert world.store.keys.check(world.home.keys[1]) is not None
    assert len(world.store.keys.all()) == 3
    if table == "api_keys" and name not in {"expires_at"}:
        assert world.store.keys.check(world.home.keys[0]) is None
    if table == "api_keys" and name != "secret_sha256":  # what is open ends with what opened it
        is_dead = world.store.keys.check(world.home.keys[0]) is None
        assert world.store.keys.dead({ids["key"]}) == ({ids["key"]} if is_dead else set())

    _require_answers(world)
    if table == "files":
        _require_files(world)
    # Told once: a second look at the same damage is silent.
    num_told = len([each for each in caplog.records if each.levelname in {"ERROR", "WARNING"}])
    world.dispatcher.run_once()
    world.webhooks.run_once()
    again = [each.getMessage() for each in caplog.records if each.levelname in {"ERROR", "WARNING"}][num_told:]
    assert again == []
    assert world.dispatcher.last_pass_at > time.time() - 60


async def _stream(store: JobStore, job_id: str) -> None:
    """A stream of a job that has ended, to its end."""
    feed = EventFeed(store)
    found = [piece async for piece in feed.stream(job_id, owner=None, after=0)]
    assert b"job_succeeded" in b"".join(found)


def _require_answers(world: World) -> None:
    """Every list and page answers, and shows the healthy objects."""
    ids = world.home.ids
    client = world.client
    shown = {
        "/v1/adaptations?limit=100": (ids["running_too"], ids["queued_too"]),
        f"/v1/adaptations?limit=100&metadata[team]={NAMES[1]}": (world.home.ended[1],),
        "/v1/fine_tuning/jobs?limit=100": (ids["running_too"], ids["queued_too"]),
        f"/v1/adaptations/{ids['running_too']}": (ids["running_too"],),
        f"/v1/adaptations/{ids['running_too']}/events": ("job_succeeded",),
        f"/v1/fine_tuning/jobs/{ids['running_too']}/events": ("published",),
        "/v1/deployments": ("good", "last"),
        "/v1/deployments/good": ("good@1",),
        "/v1/deployments/good/events": ("acceptance_drift",),
        "/v1/deployments/bad/events": (),
        "/v1/packs": ("good", "last"),
        "/v1/models": ("good", "last"),
        "/metrics": ("eda_unreadable_rows", "eda_jobs"),
        "/health": ("version",),
    }
    for path, texts in shown.items():
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        for text in texts:
            assert text in answer.text, (path, text, answer.text)
    for path in ("/ui/jobs", "/ui/deployments", "/ui/packs", f"/ui/jobs/{ids['running_too']}", "/ui/deployments/good"):
        answer = client.get(path, headers=HTML)
        assert answer.status_code == 200, (path, answer.text)
    for path in ("/v1/deployments/bad", f"/v1/adaptations/{ids['running']}", f"/v1/adaptations/{ids['queued']}"):
        assert client.get(path).status_code in {200, 404}, path


def _require_files(world: World) -> None:
    """Files come and go beside one whose row is damaged, and that one takes no other file with it."""
    client, files = world.client, world.home.files
    for path in ("/v1/files", "/ui/files", "/ui/new"):
        answer = client.get(path, headers=HTML)
        assert answer.status_code == 200, (path, answer.text)
        assert "good.jsonl" in answer.text
        assert "last.jsonl" in answer.text
    rows = {"file": ("new.jsonl", b'{"prompt": "a new one"}\n')}
    made = client.post("/v1/files", files=rows, data={"purpose": "fine-tune"})
    assert made.status_code == 200, made.text
    assert client.get(f"/v1/files/{files['good']}/content").content == b'{"prompt": "of good"}\n'
    assert client.delete(f"/v1/files/{files['last']}").status_code == 200
    damaged = client.get("/v1/files").json()["data"][-1]["id"]
    for id_ in {damaged, files["bad"]}:
        path = f"/v1/files/{quote(id_, safe='')}"
        for method, where in (("GET", path), ("GET", f"{path}/content"), ("DELETE", path)):
            answer = client.request(method, where)
            assert answer.status_code in {200, 307, 404, 405}, (method, where, answer.text)
    kept = {f"{each}.jsonl" for each in (files["good"], made.json()["id"])}
    assert kept <= {each.name for each in (world.path / "files").iterdir()}
    assert (world.path / "eda.db").exists()


@pytest.mark.parametrize("uid", ["''", "'..'", "'../..'", "x'ff'", "'dep_x'"])
def test_a_deployment_whose_uid_is_none_takes_nobodys_prompts_with_it(world: World, uid: str) -> None:
    """What was kept is deleted with the deployment, by its uid; its owner is told to delete what cannot be read."""
    kept = prompts.PromptFile(prompts.open_directory(world.path, world.home.uids["good"]) / "r1.jsonl", 50)
    kept.add({"at": 1.0, "messages": [{"role": "user", "content": "of another owner"}]})
    world.write(f"UPDATE deployments SET uid = {uid} WHERE name = 'bad'")
    world.client.app.state.services.deployments.settle()  # type: ignore[attr-defined]  # as when the service starts
    assert world.client.delete("/v1/deployments/bad").status_code == 200
    assert [row["at"] for row in prompts.newest(world.path, world.home.uids["good"], 50)] == [1.0]
    assert (world.path / "eda.db").exists()
