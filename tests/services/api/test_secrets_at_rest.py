"""Secrets of webhooks: sealed wherever they lie, opened for the signature alone, and never sent without it."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from scripted_service import ScriptedService
from standardwebhooks import Webhook
from webhook_receiver import Receiver

from api.app import create_app
from api.dispatcher.dispatcher import Dispatcher
from api.dispatcher.webhooks import Webhooks
from api.metrics.instruments import Instruments
from api.settings import Settings
from api.vault import open_vault
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import InputError
from eda_service.jobstore import JobStore, Status
from eda_service.jobstore.vault import new_key

SECRET = "whsec_" + "c2VjcmV0LXRoYXQtbm9ib2R5LW1heS1yZWFk" * 2
CONFIG = AdaptConfig(target=TargetSpec(model="org/model"))


def closed_network(settings: Settings, certificate: tuple[Path, Path], **more: Any) -> Settings:
    changes = {"webhook_private_addresses": True, "webhook_ca_file": certificate[0], **more}
    return settings.model_copy(update=changes)


def everything_under(path: Path) -> bytes:
    return b"".join(each.read_bytes() for each in path.rglob("*") if each.is_file())


def deliver(settings: Settings) -> JobStore:
    store = JobStore(settings.store_url, vault=open_vault(settings))
    Webhooks(store.outbox, settings, Instruments()).run_once()
    return store


def test_no_file_log_event_or_answer_holds_a_secret(
    settings: Settings,
    certificate: tuple[Path, Path],
    receiver: Receiver,
    ray: ScriptedService,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    receiver.answers = [500]
    settings = closed_network(settings, certificate, ray_dashboard_url=ray.url)
    body = {"model": "org/model", "base_draft": "small@1", "dataset": {"source": "self"}}
    hook = {"url": receiver.url, "secret": SECRET}
    client = TestClient(create_app(settings), raise_server_exceptions=False)
    made = client.post("/v1/adaptations", json={**body, "webhook": hook})
    assert made.status_code == 201, made.text
    job_id = made.json()["id"]
    equal = client.post("/v1/adaptations", json={**body, "webhook": hook})
    assert (equal.status_code, equal.json()["id"]) == (200, job_id)  # its hash is the same, whatever it is sealed as
    store: JobStore = client.app.state.services.store  # type: ignore[attr-defined]
    dispatcher = Dispatcher(store, settings)
    dispatcher.run_once()
    assert (settings.home / "runs" / job_id / "job.json").exists()
    store.jobs.transition(job_id, Status.CANCELLING, event="x", message="x")
    store.jobs.transition(job_id, Status.CANCELLED, event="job_cancelled", message="x")
    Webhooks(store.outbox, settings, Instruments()).run_once()
    dispatcher.stop()
    texts = [client.get(f"/v1/adaptations/{job_id}{part}").text for part in ("", "/events", "/logs")]
    texts += [
        client.get("/v1/adaptations").text,
        client.get("/metrics").text,
        repr(store.jobs.get(job_id)),
        caplog.text,
    ]
    texts += [repr(store.outbox.due()), repr(settings.model_copy(update={"secrets_key": SECRET}))]
    store.close()
    assert SECRET not in "".join(texts)
    plain = SECRET.removeprefix("whsec_")
    assert plain.encode() not in everything_under(settings.home)
    (seen,) = receiver.seen
    assert Webhook(SECRET).verify(seen[1], seen[0])


def test_the_key_is_for_the_services_user_alone(settings: Settings) -> None:
    (settings.home / "secrets").mkdir(mode=0o755)
    sealed = open_vault(settings).seal("x")
    assert open_vault(settings).open(sealed) == "x"  # made once, read from then on
    for path, mode in ((settings.home / "secrets", 0o700), (settings.home / "secrets" / "webhooks.key", 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert [each.name for each in (settings.home / "secrets").iterdir()] == ["webhooks.key"]


def test_keys_of_the_environment_are_shared_and_change_by_rotation(settings: Settings) -> None:
    old, new = new_key(), new_key()
    sealed = open_vault(settings.model_copy(update={"secrets_key": old})).seal("x")
    rotated = open_vault(settings.model_copy(update={"secrets_key": f"{new}, {old}"}))
    assert rotated.open(sealed) == "x"
    assert open_vault(settings.model_copy(update={"secrets_key": new})).open(rotated.seal("y")) == "y"
    assert not (settings.home / "secrets").exists()
    with pytest.raises(InputError, match="URL-safe base64"):
        open_vault(settings.model_copy(update={"secrets_key": "short"}))


def test_a_secret_that_no_key_opens_is_never_sent_without_its_signature(
    settings: Settings, certificate: tuple[Path, Path], receiver: Receiver
) -> None:
    settings = closed_network(settings, certificate)
    store = JobStore(settings.store_url, vault=open_vault(settings))
    job, _ = store.jobs.create(CONFIG, webhook={"url": receiver.url, "secret": SECRET})
    store.jobs.transition(job.id, Status.CANCELLED, event="job_cancelled", message="x")
    store.close()
    store = deliver(settings.model_copy(update={"secrets_key": new_key()}))
    last = store.events.of(job.id)[0][-1]
    store.close()
    assert receiver.seen == []
    assert last.type == "webhook_gave_up"
    assert "EDA_SECRETS_KEY" in last.message


def test_what_was_stored_in_plain_is_sealed_at_the_start_and_still_signs(
    settings: Settings, certificate: tuple[Path, Path], receiver: Receiver
) -> None:
    settings = closed_network(settings, certificate)
    store = JobStore(settings.store_url)
    job, _ = store.jobs.create(CONFIG, webhook={"url": receiver.url})
    store.jobs.transition(job.id, Status.CANCELLED, event="job_cancelled", message="x")
    store.close()
    path = settings.home / "eda.db"
    with sqlite3.connect(path) as connection:
        hook = json.dumps({"url": receiver.url, "secret": SECRET})
        connection.execute("UPDATE jobs SET webhook = ?", (hook,))
        connection.execute("UPDATE webhook_outbox SET secret = ?", (SECRET,))
        connection.execute("UPDATE events SET message = message || hex(randomblob(3000))")
        connection.execute("UPDATE events SET message = substr(message, 1, 9)")
    connection.close()
    assert SECRET.encode() in everything_under(settings.home)
    create_app(settings).state.services.store.close()
    assert SECRET.removeprefix("whsec_").encode() not in everything_under(settings.home)
    store = deliver(settings)
    assert store.outbox.seal_secrets() == 0
    store.close()
    (seen,) = receiver.seen
    assert Webhook(SECRET).verify(seen[1], seen[0])


def test_a_store_without_keys_stores_no_secret_and_needs_none_for_its_own_work(settings: Settings) -> None:
    store = JobStore(settings.store_url)
    with pytest.raises(InputError, match="no keys for secrets"):
        store.jobs.create(CONFIG, webhook={"url": "https://e.org/", "secret": SECRET})
    assert store.outbox.seal_secrets() == 0
    store.keys.create("ada", "laptop", ["infer"])
    store.close()
