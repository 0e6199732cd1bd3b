"""Which webhook URLs are taken, and that whatever is taken can be sent to: by hypothesis, and to a stand-in."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.dispatcher.webhook_urls import check_url
from api.dispatcher.webhooks import Webhooks
from api.metrics.instruments import Instruments
from api.settings import Settings
from eda_service.addresses import is_public
from eda_service.errors import InputError
from eda_service.jobstore import Delivery, JobStore
from eda_service.jobstore.outbox import Outbox

REFUSED = [
    "https://exa１mple.org/", "https://１２７.0.0.1/", "https://a\u00adb.org/", "https://\ud800.org/", "https://e.org/\ud800",
    "https://e.org。com/", "https://ﬁ.org/", "https://a..b.org/", "https://.a.org/", "https://a.org./", "https://-a.org/",
    "https://a-.org/", f"https://{'a' * 64}.org/", f"https://{'a.' * 130}org/", "https://e%2eorg/", "https://e.org%00/",
    "https://e.org:0/", "https://e.org:65536/", "https://e.org:-1/", "https://e.org:+1/", "https://e.org:１/", "https://e.org:/",
    "https://user@e.org/", "https://:@e.org/", "https://e.org\\@10.0.0.1/", "https://e.org/\x7f", "https://e.org/\x85",
    "https://127.1/", "https://0x7f.1/", "https://0x7f000001/", "https://2130706433/", "https://017700000001/",
    "https://0177.0.0.1/", "https://127.0.0.1/", "https://127.0.0.01/", "https://10.0.0.1/", "https://1.2.3.4.5/",
    "https://[::1]/", "https://[::ffff:127.0.0.1]/", "https://[fe80::1%25eth0]/", "https://[v1.a]/", "https://[1::",
    "https://localhost/", "https://LOCALHOST/", "https://a.localhost/", "https://printer/", "https://a.local/",
    "https://metadata.google.internal/", "https://xn--a.de/", "https://xn--80ak6aa92e.xn--/", "https://foo_bar.org/",
    "https://e.org/" + "a" * 2048, "http://e.org/", "//e.org/", "", "https:///x",
]  # fmt: skip
TAKEN = {
    "https://example.org": "https://example.org/",
    "HTTPS://Example.ORG:8443/Hook?a=b#part": "https://example.org:8443/Hook?a=b",
    "https://münchen.de/ü?ä=1": "https://xn--mnchen-3ya.de/%C3%BC?%C3%A4=1",
    "https://xn--mnchen-3ya.de/": "https://xn--mnchen-3ya.de/",
    "https://8.8.8.8/x": "https://8.8.8.8/x",
    "https://[2606:4700:0:0::1111]:8443/x": "https://[2606:4700::1111]:8443/x",
}


@pytest.mark.parametrize("url", REFUSED)
def test_what_is_ambiguous_or_private_is_refused(url: str) -> None:
    with pytest.raises(InputError) as caught:
        check_url(url)
    assert caught.value.param == "webhook.url"
    assert caught.value.message.isascii()


@pytest.mark.parametrize(("url", "stored"), TAKEN.items())
def test_what_is_taken_is_stored_in_one_form(url: str, stored: str) -> None:
    assert check_url(url) == stored
    assert check_url(stored) == stored


def test_a_closed_network_may_name_its_own_hosts() -> None:
    for url in ("https://hooks.internal/", "https://localhost:8443/", "https://10.0.0.1/", "https://[fd00::1]/"):
        assert check_url(url, private=True).startswith(url[:-1])
    with pytest.raises(InputError):
        check_url("https://127.1/", private=True)


PIECES = st.sampled_from(
    ["https://", "e.org", "ü", "１", "\u00ad", "\ud800", "xn--", ".", "..", ":", "8443", "@", "/", "?", "#", "%", "[",
     "]", "::1", "\\", "127.0.0.1", "0x7f", "a" * 63, " ", "\x00", "。", "ß", "-", "_", "localhost", "%2f", "%25",
     "é.fr", "😀"]
)  # fmt: skip
URLS = st.lists(PIECES, max_size=9).map(lambda parts: "https://" + "".join(parts)) | st.text(max_size=40).map(
    "https://".__add__
)


STORE = lru_cache(lambda: JobStore("sqlite://"))


def webhooks_to_a_stand_in(tmp_path: Path, sent: list[httpx.Request]) -> tuple[Webhooks, httpx.MockTransport]:
    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    made = Webhooks(STORE().outbox, Settings(home=tmp_path, webhook_private_addresses=True), Instruments())

    async def stand_in(host: str, port: int) -> str:
        assert host.isascii()
        return "203.0.113.1"

    made._address_of = stand_in  # type: ignore[method-assign]
    return made, httpx.MockTransport(answer)


@given(url=URLS)
@settings(max_examples=400, deadline=None)
def test_whatever_is_taken_can_be_sent_to(tmp_path_factory: pytest.TempPathFactory, url: str) -> None:
    try:
        stored = check_url(url)
    except InputError:
        return
    parts = urlsplit(stored)
    assert stored.isascii()
    assert parts.hostname is not None
    assert re.fullmatch(r"[a-z0-9.:-]{1,253}", parts.hostname)
    if parts.netloc.startswith("[") or parts.hostname.split(".")[-1].isdigit():
        assert is_public(str(ipaddress.ip_address(parts.hostname)))
    assert check_url(stored) == stored
    assert httpx.URL(stored).raw_host.decode() == parts.hostname
    sent: list[httpx.Request] = []
    made, transport = webhooks_to_a_stand_in(tmp_path_factory.getbasetemp(), sent)
    delivery = Delivery(id=1, job_id="adapt_x", url=stored, payload={}, attempts=0)

    async def send() -> None:
        async with httpx.AsyncClient(transport=transport) as http:
            await made._deliver(http, delivery)

    asyncio.run(send())
    assert sent[0].headers["host"] == parts.netloc
    assert sent[0].url.host == "203.0.113.1"


def test_a_url_from_before_that_is_none_any_more_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[httpx.Request] = []
    made, transport = webhooks_to_a_stand_in(tmp_path, sent)
    given_up: list[Any] = []
    monkeypatch.setattr(Outbox, "gave_up", lambda _, *found: given_up.append(found))
    delivery = Delivery(id=7, job_id="adapt_x", url="https://exa１mple.org/", payload={}, attempts=0)

    async def send() -> None:
        async with httpx.AsyncClient(transport=transport) as http:
            await made._try(http, delivery)

    asyncio.run(send())
    assert sent == []
    assert given_up[0][0] == 7
    assert "no domain name" in given_up[0][1]
