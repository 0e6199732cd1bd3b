"""Webhooks to a real https receiver on loopback: signature, repeats, patience, and addresses that are not called."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from webhook_receiver import Receiver

from api.dispatcher.webhook_urls import check_url
from api.dispatcher.webhooks import Webhooks
from api.metrics.instruments import Instruments
from api.settings import Settings
from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import InputError
from eda_service.jobstore import JobStore, Status
from eda_service.jobstore.vault import FernetVault, new_key

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" * 2
CONFIG = AdaptConfig(target=TargetSpec(model="org/model"))


class Clock:
    """Time that moves when told to; starts now, because receivers check the age of a message."""

    def __init__(self) -> None:
        import time

        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[JobStore]:
    opened = JobStore(f"sqlite:///{tmp_path / 'eda.db'}", clock=clock, vault=FernetVault([new_key()]))
    yield opened
    opened.close()


def sender(
    store: JobStore, tmp_path: Path, clock: Clock, certificate: tuple[Path, Path], *, private: bool = True
) -> Webhooks:
    settings = Settings(home=tmp_path, webhook_private_addresses=private, webhook_ca_file=certificate[0])
    return Webhooks(store.outbox, settings, Instruments(), clock=clock)


def ended_job(store: JobStore, url: str, secret: str | None = SECRET) -> str:
    job, _ = store.jobs.create(CONFIG, force=True, webhook={"url": url, "secret": secret}, labels={"team": "math"})
    store.jobs.transition(job.id, Status.CANCELLED, event="job_cancelled", message="no more")
    return job.id


def types(store: JobStore, job_id: str) -> list[str]:
    return [event.type for event in store.events.of(job_id)[0]]


def test_the_end_of_a_job_is_told_once_and_signed(
    store: JobStore, tmp_path: Path, clock: Clock, receiver: Receiver, certificate: tuple[Path, Path]
) -> None:
    job_id = ended_job(store, receiver.url)
    webhooks = sender(store, tmp_path, clock, certificate)
    webhooks.run_once()
    webhooks.run_once()
    ((headers, body),) = receiver.seen
    told = Webhook(SECRET).verify(body, headers)
    assert told == json.loads(body)
    assert told["type"] == "adaptation.cancelled"
    assert (told["data"]["id"], told["data"]["status"], told["data"]["metadata"]) == (
        job_id,
        "cancelled",
        {"team": "math"},
    )
    assert headers[":path"] == "/hook?a=b"
    assert headers["host"].startswith("localhost:")
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"cancelled", b"succeeded"), headers)
    assert types(store, job_id)[-1] == "webhook_delivered"


def test_a_receiver_that_fails_is_asked_again_later_under_the_same_id(
    store: JobStore, tmp_path: Path, clock: Clock, receiver: Receiver, certificate: tuple[Path, Path]
) -> None:
    job_id = ended_job(store, receiver.url)
    receiver.answers = [500, 302]
    webhooks = sender(store, tmp_path, clock, certificate)
    for _ in range(3):
        webhooks.run_once()
        webhooks.run_once()  # not before its time
        clock.now += 61
    assert [headers["webhook-id"] for headers, _ in receiver.seen] == [receiver.seen[0][0]["webhook-id"]] * 3
    assert types(store, job_id)[-3:] == ["webhook_failed", "webhook_failed", "webhook_delivered"]


def test_a_receiver_that_never_answers_is_given_up(
    store: JobStore, tmp_path: Path, clock: Clock, receiver: Receiver, certificate: tuple[Path, Path]
) -> None:
    job_id = ended_job(store, receiver.url)
    receiver.answers = [503] * 99
    webhooks = sender(store, tmp_path, clock, certificate)
    for _ in range(30):
        webhooks.run_once()
        clock.now += 3601
    assert len(receiver.seen) == 12
    assert types(store, job_id)[-1] == "webhook_gave_up"


def test_private_addresses_are_not_called(
    store: JobStore, tmp_path: Path, clock: Clock, receiver: Receiver, certificate: tuple[Path, Path]
) -> None:
    job_id = ended_job(store, receiver.url)
    webhooks = sender(store, tmp_path, clock, certificate, private=False)
    webhooks.run_once()
    assert receiver.seen == []
    failed = store.events.of(job_id)[0][-1]
    assert failed.type == "webhook_failed"
    assert "private address" in failed.message


def test_an_untrusted_certificate_is_not_accepted(
    store: JobStore, tmp_path: Path, clock: Clock, receiver: Receiver
) -> None:
    ended_job(store, receiver.url)
    private = Settings(home=tmp_path, webhook_private_addresses=True)
    webhooks = Webhooks(store.outbox, private, Instruments(), clock=clock)
    webhooks.run_once()
    assert receiver.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x", "https://", "https://user:pw@example.org/", "ftp://example.org", "https://127.0.0.1/x",
        "https://10.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest", "https://example.org:99999/", "none",
        "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[::ffff:127.0.0.1]/", "https://224.0.0.1/",
        "https://0.0.0.0/", "https://100.64.0.1/", "https://[fe80::1%25eth0]/", "https://[fec0::1]/",
        "https://exa\nmple.org/", "https://example.org/ x", "https://example.org\\@10.0.0.1/", "https://e.org/\x1b[2J",
    ],
)  # fmt: skip
def test_urls_that_are_never_called_are_refused_at_submit(url: str) -> None:
    with pytest.raises(InputError) as caught:
        check_url(url)
    assert caught.value.param == "webhook.url"
    assert check_url("https://example.org:8443/hook") == "https://example.org:8443/hook"


def test_a_receiver_that_never_finishes_holds_up_no_other(
    store: JobStore,
    tmp_path: Path,
    clock: Clock,
    receiver: Receiver,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sends a byte of a header now and then, so that no single read is late."""
    monkeypatch.setattr("api.dispatcher.webhooks._WHOLE_TIMEOUT_S", 1.5)
    stop = threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            opened, _ = listening.accept()
            with contextlib.suppress(OSError), context.wrap_socket(opened, server_side=True) as tls:
                tls.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                while not stop.wait(0.1):
                    tls.sendall(b"a")

        thread = threading.Thread(target=drip)
        thread.start()
        slow = ended_job(store, f"https://localhost:{listening.getsockname()[1]}/")
        prompt = ended_job(store, receiver.url)
        sender(store, tmp_path, clock, certificate).run_once()
        stop.set()
        thread.join()
    assert types(store, prompt)[-1] == "webhook_delivered"
    assert types(store, slow)[-1] == "webhook_failed"


def test_a_name_is_resolved_once_and_that_address_is_called(
    store: JobStore,
    tmp_path: Path,
    clock: Clock,
    receiver: Receiver,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that answers otherwise the second time (DNS rebinding) is not asked a second time."""
    real, asked = socket.getaddrinfo, []

    def counted(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "localhost":
            asked.append(host)
        return real("127.0.0.1" if len(asked) <= 1 else "203.0.113.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", counted)
    ended_job(store, receiver.url)
    sender(store, tmp_path, clock, certificate).run_once()
    assert len(receiver.seen) == 1
    assert asked == ["localhost"]
