"""One rule for names everywhere: no text in the place of a name is a 500, and an error has made nothing."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from named_requests import BODY, HEADERS, Request, named_requests, tasks_and_pages

from api.settings import Settings
from eda_service.jobstore import JobStore
from eda_service.names import is_name

ODD = [
    "",
    " ",
    ".",
    "..",
    "...",
    "../..",
    "a/../b",
    "/",
    "//",
    "/" + "x" * 500,
    "/" + "/x" * 250,
    "-x",
    "_x",
    "~",
    "~nobody/x",
    "a b",
    "a\n",
    "a\tb",
    "a\0b",
    "/a\0b",
    "\x7f",
    "\x1b[31m",
    "naïve",
    "名前",
    "/名前",
    "\u212a",  # KELVIN SIGN: a k to who folds case
    "ａｂｃ",
    "١٢٣",  # Arabic digits
    "a\u0301",
    "\u202ename",
    "😀",
    "\ud800",
    "/\ud800",
    "x" * 97,
    "x" * 129,
    "x" * 512,
    "x" * 5000,
    "%2e%2e",
    "%00",
    "<b>",
    "a;b",
    "a@1",
    "a@latest@latest",
    "a@" + "9" * 400,
    "${x}",
    "{x}",
    "small@٣",
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The dispatcher looks when it is woken, and not all the time beside some hundred requests."""
    return settings.model_copy(update={"dispatch_interval_s": 60.0})


def ask(client: TestClient, method: str, route: str, body: Any) -> Any:
    content = None if body is None else json.dumps(body).encode()  # half of a surrogate pair stays an escape
    return client.request(method, route, content=content, headers={"content-type": "application/json"})


def require_no_500(client: TestClient, store: JobStore, requests: list[Request]) -> None:
    for method, route, body in requests:
        before = store.jobs.known_ids(), store.deployments.all()
        answer = ask(client, method, route, body)
        what = f"{method} {route[:200]} {str(body)[:200]!a}: {answer.status_code} {answer.text[:300]!a}"
        assert answer.status_code < 500 or answer.status_code == 503, what
        assert len(answer.content) < 20_000 or answer.is_success, what
        if answer.is_error:
            assert (store.jobs.known_ids(), store.deployments.all()) == before, what


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_no_name_is_a_500_and_an_error_makes_nothing(client: TestClient, store: JobStore, text: str) -> None:
    require_no_500(client, store, named_requests(text))
    assert [each.name for each in store.deployments.all() if not is_name(each.name)] == []
    for job in store.jobs.page(limit=100)[0]:
        assert is_name(job.adapt_config().public_name), text


FEW = [
    "", "..", "a/../b", "/" + "x" * 500, "a\0b", "naïve", "/名前", "\u212a", "\u202ename", "\ud800", "x" * 97,
    "x" * 5000, "a@" + "9" * 400, "small@٣",
]  # fmt: skip


def test_nor_is_one_of_a_draft_a_measurement_or_a_page(client: TestClient, store: JobStore) -> None:
    for text in FEW:
        require_no_500(client, store, tasks_and_pages(text))
    for job in store.jobs.page(limit=100)[0]:
        assert is_name(getattr(job.task(), "draft_name", "x")), job


def test_no_header_is_a_500_and_an_error_makes_nothing(client: TestClient, store: JobStore) -> None:
    """As a server passes them on: any bytes but line ends and NUL."""
    texts = (*FEW, "\x1b[31m", "Bearer \u212a", "Bearer eda_x_\u0661", "eda_session=é")
    values = [text.encode("utf-8", "surrogatepass") for text in texts if "\0" not in text]
    for name in HEADERS:
        for value in [b"\xff\xfe", *values]:
            before = store.jobs.known_ids()
            headers = {b"content-type": b"application/json", name.encode(): value}
            answer = client.post("/v1/adaptations", content=b'{"model": "../x"}', headers=headers)  # type: ignore[arg-type]
            looked = client.get("/v1/adaptations/adapt_0/events", headers={name.encode(): value})  # type: ignore[dict-item]
            what = (name, value[:80], answer.status_code, answer.text[:300], looked.status_code, looked.text[:300])
            assert max(answer.status_code, looked.status_code) < 500, what
            assert answer.is_error, what
            assert store.jobs.known_ids() == before, what
            assert answer.headers["x-request-id"].isascii(), what


def test_a_key_that_is_no_ascii_text_replays_its_own_job(client: TestClient, store: JobStore) -> None:
    """Of idempotency, in a header: two that a database could take for one are two."""
    made = {}
    for text in ("naïve", "nai\u0308ve", "NAÏVE", "\u202ename", "😀", "名前", "\ufffd", "x" * 85):
        key = text.encode()
        body = json.dumps({**BODY, "force": True}).encode()
        headers = {b"content-type": b"application/json", b"idempotency-key": key}
        found = [client.post("/v1/adaptations", content=body, headers=headers) for _ in range(2)]  # type: ignore[arg-type]
        assert [each.status_code for each in found] == [201, 200], (text, found[0].text)
        made[text] = found[0].json()["id"]
        assert found[1].json()["id"] == made[text]
    assert len(set(made.values())) == len(made)


def odd_places(root: Path) -> Iterator[Path]:
    """What a path can lead to that is neither a file nor a directory that is read."""
    (root / "file").write_text("{}")
    (root / "directory").mkdir()
    (root / "itself").symlink_to("itself")
    (root / "one").symlink_to("other")
    (root / "other").symlink_to("one")
    (root / "nowhere").symlink_to("gone")
    (root / "out").symlink_to("/etc/hostname")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(root / "socket"))
    for name in ("itself", "one", "nowhere", "out", "fifo", "socket", "directory", "file", "gone"):
        yield root / name
        yield root / name / "below"
    yield root / ("x" * 300)
    yield root / "/".join(["x" * 200] * 2) / "x"
    yield root / "file" / ".." / "file"
    yield Path("/dev/zero")
    yield Path("/proc/self/mem")


def test_whatever_a_path_leads_to_is_a_400_that_names_its_field(
    client: TestClient, store: JobStore, settings: Settings
) -> None:
    draft, measured = {"source": "org/draft", "model": "org/model"}, {"model": "org/model", "draft": "small@1"}
    fields: list[tuple[str, str, dict[str, Any], str]] = [
        *(("/v1/adaptations", field, BODY, field) for field in ("model", "adapter")),
        *(("/v1/deployments", field, BODY, field) for field in ("model", "adapter")),
        *(("/v1/drafts", field, draft, field) for field in ("model", "source")),
        *(("/v1/measurements", field, measured, field) for field in ("model", "adapter", "base_model")),
        *((route, "dataset", BODY, "dataset.source") for route in ("/v1/adaptations", "/v1/adaptations/estimate")),
        ("/v1/adaptations", "eval_dataset", BODY, "eval_dataset.source"),
        ("/v1/measurements", "dataset", measured, "dataset.source"),
        ("/v1/fine_tuning/jobs", "training_file", {"model": "org/model", "base_draft": "small@1"}, "dataset.source"),
    ]
    for path in odd_places(settings.local_roots[0]):
        for route, field, body, param in fields:
            value = {"source": str(path)} if "dataset" in field else str(path)
            answer = client.post(route, json={**body, field: value, "force": True})
            found = (answer.status_code, answer.json().get("error", {}).get("param"))
            assert found == (400, param), (route, field, str(path)[-80:], answer.text)
    assert (store.jobs.known_ids(), store.deployments.all()) == (set(), [])


@pytest.mark.parametrize("name", ["naïve", "名前", "x" * 97, "..", "a b", "a\n", ""])
@pytest.mark.parametrize("field", ["name", "served_name", "suffix"])
def test_a_name_that_is_none_is_refused_with_the_rule(client: TestClient, field: str, name: str) -> None:
    routes = {"name": "/v1/deployments", "served_name": "/v1/adaptations", "suffix": "/v1/fine_tuning/jobs"}
    body = {**BODY, field: name, **({"training_file": "self"} if field == "suffix" else {})}
    answer = ask(client, "POST", routes[field], body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize("model", ["org/.name", "org/naïve", "/nowhere/名前"])
def test_the_name_of_what_has_none_is_made_of_its_model(client: TestClient, store: JobStore, model: str) -> None:
    answer = ask(client, "POST", "/v1/deployments", {**BODY, "model": model})
    assert answer.status_code == 400
    assert store.deployments.all() == []
