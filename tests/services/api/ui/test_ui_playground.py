"""The playground's way to the endpoint; a scripted server speaks for Serve's proxy."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from html_pages import Element, parse
from pack_files import put_pack
from scripted_service import Answer, ScriptedService

from api.settings import Settings
from eda_service.jobstore import Deployment, JobStore
from eda_service.raycluster.serve_plan import group_key

HTML = {"accept": "text/html"}
PIECES = (b'data: {"choices": [{"spans": [{"text": "4", "accepted": true}]}]}\n\n', b"data: [DONE]\n\n")


@pytest.fixture
def serve_port(proxy: ScriptedService) -> int:
    return httpx.URL(proxy.url).port or 0


@pytest.fixture
def prefix(client: TestClient, settings: Settings, proxy: ScriptedService) -> str:
    """A deployment with a pack, `a`, and where its group answers."""
    put_pack(settings.home, "math", 2.0)
    made = client.post("/v1/deployments", json={"name": "a", "model": "org/model", "pack": "math@1"})
    assert made.status_code == 201, made.text
    found = f"/groups/{group_key({'model': 'org/model', 'adapter': None, 'revision': None, 'dtype': 'auto'})}"
    proxy.on(
        "POST",
        f"{found}/v1/chat/completions",
        Answer(headers={"content-type": "text/event-stream"}, chunks=PIECES),
    )
    return found


def page(client: TestClient, query: str = "") -> Element:
    return parse(client.get(f"/ui/playground{query}", headers=HTML).text)


def token_of(found: Element) -> str:
    return found.one("form", id="question").attributes["data-token"]


def ask(client: TestClient, token: str, **question: Any) -> Any:
    body = {"model": "a", "prompt": "2 + 2?", **question}
    return client.post("/ui/playground/answer", json=body, headers={"x-form-token": token})


def test_a_question_reaches_the_group_with_spans_asked_for(
    client: TestClient, proxy: ScriptedService, prefix: str
) -> None:
    answer = ask(client, token_of(page(client)), temperature=0.5, max_tokens=7)
    assert answer.content == b"".join(PIECES)
    assert answer.headers["content-type"].startswith("text/event-stream")
    (sent,) = proxy.seen("POST", f"{prefix}/v1/chat/completions")
    assert sent.body["messages"] == [{"role": "user", "content": "2 + 2?"}]
    assert (sent.body["temperature"], sent.body["max_tokens"], sent.body["stream"]) == (0.5, 7, True)
    assert sent.body["stream_options"]["draft_tokens"] is True
    assert sent.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("question", "status", "code"),
    [
        ({"model": "nobody"}, 404, "model_not_found"),
        ({"prompt": ""}, 400, "invalid_request"),
        ({"max_tokens": 5000}, 400, "invalid_request"),
        ({"temperature": 3}, 400, "invalid_request"),
        ({"system": "x"}, 400, "invalid_request"),
    ],
)
def test_a_question_that_cannot_be_is_refused(
    client: TestClient, prefix: str, question: dict[str, Any], status: int, code: str
) -> None:
    answer = ask(client, token_of(page(client)), **question)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_the_keys_limits_count(client: TestClient, store: JobStore, prefix: str) -> None:
    _, text = store.keys.create("local", "test", ["infer"], None, requests_per_minute=1)
    login = parse(client.get("/ui/login", headers=HTML).text)
    fields = {"token": login.one("input", name="token").attributes["value"], "key": text}
    client.post("/ui/login", data=fields, headers=HTML)
    token = token_of(page(client))
    assert ask(client, token).status_code == 200
    refused = ask(client, token)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1


def test_the_second_answer_is_the_same_deployments_without_its_pack(
    client: TestClient, proxy: ScriptedService, prefix: str
) -> None:
    found = page(client)
    chosen = [each.attributes for each in found.all("option") if "selected" in each.attributes]
    assert [(each["value"], each.get("data-draft")) for each in chosen] == [("a", None), ("a", "base")]
    assert ask(client, token_of(found), draft="base").status_code == 200
    (sent,) = proxy.seen("POST", f"{prefix}/v1/chat/completions")
    assert sent.body["draft"] == "base"
    assert [each["name"] for each in client.get("/v1/deployments").json()["data"]] == ["a"]


@pytest.mark.parametrize(
    ("scopes", "draft", "status", "code"),
    [
        (["infer", "jobs:write"], "none", 200, None),
        (["infer", "jobs:write"], "math@1", 200, None),
        (["infer", "jobs:write"], "stranger@1", 400, "invalid_request"),
        (["infer"], "base", 403, "insufficient_scope"),
        (["infer"], None, 200, None),
    ],
)
def test_only_those_who_may_change_a_deployment_choose_its_draft(
    client: TestClient,
    store: JobStore,
    proxy: ScriptedService,
    prefix: str,
    scopes: list[str],
    draft: str | None,
    status: int,
    code: str | None,
) -> None:
    _, key = store.keys.create("local", "test", scopes, None)
    body = {"model": "a", "messages": [{"role": "user", "content": "2 + 2?"}], "draft": draft}
    answer = client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == status, answer.text
    if code is not None:
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == (code, "draft")
    assert len(proxy.seen("POST", f"{prefix}/v1/chat/completions")) == (status == 200)


def test_without_deployments_there_is_nothing_to_ask(client: TestClient) -> None:
    found = page(client)
    assert not found.all("form", id="question")
    assert "Nothing is deployed" in found.one("main").text


def test_what_the_page_has_made_is_removed_by_a_button(client: TestClient, store: JobStore, prefix: str) -> None:
    """Also what an earlier version made, which says nowhere that it did; nothing that people have made or changed."""
    target = store.deployments.get("a").target
    for name, changes in {
        "a-base": {},  # as earlier versions made it
        "b-base": {},  # there is no `b`
        "math-base": {"labels": {"team": "x"}},
    }.items():
        row = Deployment(name=name, target=target, base_draft="small@1", pack=None, **changes)
        store.deployments.put(row, made_by="local", reason="created")
    client.post("/v1/deployments", json={"name": "math", "model": "org/model", "pack": "math@1"})
    for name in ("b-base", "math-base"):
        page_now = page(client)
        token = page_now.all("input", name="token")[0].attributes["value"]
        refused = client.post("/ui/playground/remove", data={"token": token, "name": name}, headers=HTML)
        assert refused.status_code == 409, name
        assert "not made by the playground" in parse(refused.text).one("main").text
    forms = page(client).all("form", action="/ui/playground/remove")
    assert [each.one("span").text for each in forms] == ["a-base"]
    fields = {each.attributes["name"]: each.attributes["value"] for each in forms[0].all("input")}
    gone = client.post("/ui/playground/remove", data=fields, headers=HTML, follow_redirects=False)
    assert (gone.status_code, gone.headers["location"]) == (303, "/ui/playground?left=a")
    assert client.get("/v1/deployments/a-base").status_code == 404
    assert {each.name for each in store.deployments.all()} == {"a", "b-base", "math", "math-base"}
    assert client.post("/ui/playground/remove", data=fields, headers=HTML).status_code == 404


def test_each_answer_says_whose_it_is(client: TestClient, prefix: str) -> None:
    client.post("/v1/deployments", json={"name": "plain", "model": "org/model"})
    found = page(client, "?left=a&right=plain")
    names = [found.one("h2", id=f"{side}-title").one("span").text for side in ("left", "right")]
    assert names == ["a: math@1", "plain: no pack"]
