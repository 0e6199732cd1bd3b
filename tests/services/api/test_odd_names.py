"""One rule for names everywhere: no text in the place of a name is a 500, and an error has made nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from named_requests import BODY, named_requests

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


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_no_name_is_a_500_and_an_error_makes_nothing(client: TestClient, store: JobStore, text: str) -> None:
    for method, route, body in named_requests(text):
        before = store.known_ids(), store.deployments()
        answer = ask(client, method, route, body)
        what = f"{method} {route[:200]} {str(body)[:200]!a}: {answer.status_code} {answer.text[:300]!a}"
        assert answer.status_code < 500 or answer.status_code == 503, what
        assert len(answer.content) < 20_000 or answer.is_success, what
        if answer.is_error:
            assert (store.known_ids(), store.deployments()) == before, what
    assert [each.name for each in store.deployments() if not is_name(each.name)] == []
    for job in store.page(limit=100)[0]:
        assert is_name(job.adapt_config().public_name), text


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
    assert store.deployments() == []
