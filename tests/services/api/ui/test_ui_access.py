"""Who sees the pages: sessions, form tokens, scopes, owners, headers; read from real answers, page by page."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from html_pages import parse
from job_files import finish_job
from starlette.routing import Mount

from api.app import create_app
from api.files.upload_routes import UPLOADS
from api.settings import Settings
from api.ui.sessions import COOKIE, LIFETIME_S, Sessions
from eda_service.jobstore import JobStore

HTML = {"accept": "text/html"}
BODY = {"model": "org/model", "base_draft": "small@1"}
ALL = ("jobs:read", "jobs:write", "infer")


def ui_routes() -> list[tuple[str, str]]:
    """Method and path of every page, from the application itself: a new one cannot be forgotten."""
    app = create_app(Settings(database_url="sqlite://"))
    mounted = next(route for route in app.routes if isinstance(route, Mount) and route.path == "/ui")
    found = [route for route in mounted.routes if isinstance(route, APIRoute)]
    return sorted((method, f"/ui{route.path}") for route in found for method in route.methods)


ROUTES = ui_routes()
PUBLIC = {
    ("GET", "/ui/login"),
    ("POST", "/ui/login"),
    ("POST", "/ui/logout"),
    ("GET", "/ui/docs"),
    ("GET", "/ui/docs/{tag}"),
}
OF_A_JOB = [(method, path) for method, path in ROUTES if "{job_id}" in path and "/exports/" not in path]  # no export


def key(store: JobStore, owner: str, *scopes: str) -> str:
    return store.keys.create(owner, "test", list(scopes or ALL), None)[1]


def token_of(page: Any) -> str:
    fields = parse(page.text).all("input", name="token")
    return fields[0].attributes["value"]


def login(client: TestClient, text: str, to: str = "/") -> Any:
    """Log in as a browser does; its cookie stays with the client."""
    page = client.get("/ui/login", headers=HTML)
    fields = {"token": token_of(page), "key": text, "to": to}
    return client.post("/ui/login", data=fields, headers=HTML, follow_redirects=False)


def call(client: TestClient, method: str, path: str, job_id: str = "adapt_none", **fields: str) -> Any:
    url = path.replace("{job_id}", job_id).replace("{stage}", "train").replace("{name}", "nobody")
    url = url.replace("{file_id}", "file-x").replace("{version}", "1")
    sent: dict[str, Any] = {"data": fields} if method == "POST" else {}
    if (method, path) in UPLOADS:
        sent = {"data": fields, "files": {"file": ("rows.jsonl", b'{"prompt": "x"}')}}
    if path.endswith("/answer"):
        sent = {"json": {"model": "nobody", "prompt": "Hi"}, "headers": {"x-form-token": fields.get("token", "")}}
    headers = {**HTML, **sent.pop("headers", {})}
    return client.request(method, url, headers=headers, follow_redirects=False, **sent)


@pytest.fixture
def browser(client: TestClient) -> TestClient:
    """A second client of the same application, so that each has its own cookies."""
    return TestClient(client.app, raise_server_exceptions=False)


def test_there_are_the_pages_that_this_module_walks() -> None:
    assert {path for _, path in ROUTES} >= {"/ui/jobs", "/ui/packs", "/ui/deployments", "/ui/playground"}
    assert len(OF_A_JOB) >= 6


def test_without_keys_nobody_logs_in(client: TestClient) -> None:
    assert client.get("/ui", headers=HTML).url.path == "/ui/"
    page = parse(client.get("/ui/jobs", headers=HTML).text)
    assert not page.all("form", action="/ui/logout")
    assert client.get("/ui/login", headers=HTML, follow_redirects=False).status_code == 303


@pytest.mark.parametrize(("method", "path"), [each for each in ROUTES if each not in PUBLIC])
def test_with_keys_every_page_asks_for_a_login(client: TestClient, store: JobStore, method: str, path: str) -> None:
    key(store, "ada")
    answer = call(client, method, path, token="x")
    assert (answer.status_code, answer.headers["location"][:9]) == (303, "/ui/login")
    bare = path.replace("{version}", "1")
    for field in ("{job_id}", "{stage}", "{name}", "{file_id}"):
        bare = bare.replace(field, "train" if field == "{stage}" else "x")
    script = client.request(method, bare)
    assert (script.status_code, script.json()["error"]["code"]) == (401, "login_needed")


def test_logging_in_and_out(client: TestClient, store: JobStore) -> None:
    text = key(store, "ada")
    asked = client.get("/ui/jobs?status=failed", headers=HTML, follow_redirects=False)
    assert asked.headers["location"] == "/ui/login?to=/jobs%3Fstatus%3Dfailed"
    answer = login(client, text, "/jobs?status=failed")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/jobs?status=failed")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/ui"} <= set(re.split("; ", cookie))
    assert text not in cookie
    page = client.get("/ui/jobs", headers=HTML)
    assert page.status_code == 200
    assert parse(page.text).one("form", action="/ui/logout").one("span").text == "ada"
    left = client.post("/ui/logout", data={"token": token_of(page)}, headers=HTML, follow_redirects=False)
    assert left.headers["location"] == "/ui/login"
    assert client.get("/ui/jobs", headers=HTML, follow_redirects=False).status_code == 303


@pytest.mark.parametrize("wrong", ["", "eda_x_y", "eda_0123456789abcdef_" + "0" * 64])
def test_a_wrong_key_is_told_and_not_repeated(client: TestClient, store: JobStore, wrong: str) -> None:
    key(store, "ada")
    answer = login(client, wrong)
    assert answer.status_code == 401
    page = parse(answer.text)
    assert page.one("p", role="alert").text
    assert not wrong or wrong not in answer.text
    assert page.one("input", id="key").attributes.get("value") is None


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/\\evil.example", "/a//b", "javascript:x", ""]
)
def test_a_login_leads_nowhere_else(client: TestClient, store: JobStore, to: str) -> None:
    assert login(client, key(store, "ada"), to).headers["location"] == "/ui/"


def test_a_revoked_key_ends_its_sessions(client: TestClient, store: JobStore) -> None:
    info, text = store.keys.create("ada", "test", list(ALL), None)
    login(client, text)
    assert client.get("/ui/jobs", headers=HTML, follow_redirects=False).status_code == 200
    store.keys.revoke(info.id)
    assert client.get("/ui/jobs", headers=HTML, follow_redirects=False).status_code == 303


def test_cookies_are_signed_and_end(tmp_path: Path) -> None:
    now = [1000.0]
    sessions = Sessions(tmp_path, clock=lambda: now[0])
    session = sessions.new("0123456789abcdef")
    cookie = sessions.seal(session)
    assert sessions.open(cookie) == session
    assert Sessions(tmp_path, clock=lambda: now[0]).open(cookie) == session, "another process of this home"
    for place in range(len(cookie)):
        other = "1" if cookie[place] != "1" else "2"
        assert sessions.open(cookie[:place] + other + cookie[place + 1 :]) is None
    elsewhere = Sessions(tmp_path / "elsewhere", clock=lambda: now[0])
    assert elsewhere.open(cookie) is None
    assert (tmp_path / "ui" / "secret").stat().st_mode & 0o777 == 0o600
    now[0] += LIFETIME_S
    assert sessions.open(cookie) is None


@pytest.mark.parametrize("token", [None, "", "0" * 64, "of another session"])
@pytest.mark.parametrize("with_keys", [False, True])
def test_a_form_of_another_site_changes_nothing(
    client: TestClient, browser: TestClient, store: JobStore, token: str | None, with_keys: bool
) -> None:
    text = key(store, "local") if with_keys else ""
    job = client.post("/v1/adaptations", json=BODY, headers={"authorization": f"Bearer {text}"}).json()
    for each in (client, browser):
        if with_keys:
            login(each, text)
    page = f"/ui/jobs/{job['id']}"
    mine, foreign = (token_of(each.get(page, headers=HTML)) for each in (client, browser))
    fields = {} if token is None else {"token": foreign if token.startswith("of") else token}
    refused = client.post(f"{page}/cancel", data=fields, headers=HTML)
    assert (refused.status_code, store.jobs.get(job["id"]).status in {"queued", "running"}) == (400, True)
    question = {"json": {"model": "m", "prompt": "x"}, "headers": {"x-form-token": fields.get("token", "")}}
    assert client.post("/ui/playground/answer", **question).json()["error"]["code"] == "form_token_invalid"  # type: ignore[arg-type]
    taken = client.post(f"{page}/cancel", data={"token": mine}, headers=HTML, follow_redirects=False)
    assert (taken.status_code, store.jobs.get(job["id"]).status in {"cancelled", "cancelling"}) == (303, True)


def test_a_form_must_be_a_form(client: TestClient) -> None:
    page = client.get("/ui/jobs/x", headers=HTML)
    assert page.status_code == 404
    for sent in ({"json": {"token": "x"}}, {"content": b"token=\xff", "headers": {"content-type": "text/plain"}}):
        assert client.post("/ui/logout", **sent).status_code == 400  # type: ignore[arg-type]
    crowd = {f"f{n}": "x" for n in range(40)}
    assert client.post("/ui/logout", data=crowd).status_code == 400


@pytest.mark.parametrize(("method", "path"), OF_A_JOB)
def test_another_owners_job_is_a_page_that_is_not_there(
    client: TestClient, browser: TestClient, store: JobStore, settings: Settings, method: str, path: str
) -> None:
    mine, other = key(store, "ada"), key(store, "bob")
    job = client.post("/v1/adaptations", json=BODY, headers={"authorization": f"Bearer {mine}"}).json()
    finish_job(store, settings.home, store.jobs.get(job["id"]))
    login(browser, other)
    token = token_of(browser.get("/ui/jobs", headers=HTML))
    theirs, nobodys = (
        call(browser, method, path, job_id, token=token, priority="9") for job_id in (job["id"], "adapt_none")
    )
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.text.replace(job["id"], "X") == nobodys.text.replace("adapt_none", "X")
    login(client, mine)
    token = token_of(client.get("/ui/jobs", headers=HTML))
    if not path.endswith("/stream"):
        assert call(client, method, path, job["id"], token=token, priority="9").status_code in {200, 303, 409}


def test_scopes_decide_what_is_shown_and_done(client: TestClient, store: JobStore) -> None:
    job = client.post("/v1/adaptations", json=BODY).json()
    login(client, key(store, "local", "jobs:read"))
    page = parse(client.get(f"/ui/jobs/{job['id']}", headers=HTML).text)
    places = [each.attributes["href"] for each in page.one("nav", **{"aria-label": "Main"}).all("a")]
    assert places == ["/ui/", "/ui/jobs", "/ui/files", "/ui/drafts", "/ui/packs", "/ui/deployments"]
    assert not page.all("button", **{"class": "danger"})
    token = page.all("input", name="token")[0].attributes["value"]
    for path in (f"/ui/jobs/{job['id']}/cancel", "/ui/playground/remove"):
        assert client.post(path, data={"token": token, "name": "m"}, headers=HTML).status_code == 403
    assert client.get("/ui/playground", headers=HTML).status_code == 403
    asked = {"json": {"model": "m", "prompt": "x"}, "headers": {"x-form-token": token}}
    assert client.post("/ui/playground/answer", **asked).status_code == 403  # type: ignore[arg-type]


def test_lists_show_what_the_api_shows(client: TestClient, store: JobStore) -> None:
    mine, other, admin = key(store, "ada"), key(store, "bob"), key(store, "eve", "admin")
    for text in (mine, other):
        client.post("/v1/adaptations", json=BODY, headers={"authorization": f"Bearer {text}"})
    for text, number in ((mine, 1), (other, 1), (admin, 2)):
        login(client, text)
        page = parse(client.get("/ui/jobs", headers=HTML).text)
        assert len(page.one("tbody", id="rows").all("tr")) == number
        assert page.one("nav", id="counts").all("span")[0].text == str(number)


def test_every_answer_carries_the_security_headers_and_no_page_an_inline_script(
    client: TestClient, store: JobStore, settings: Settings
) -> None:
    job = client.post("/v1/adaptations", json=BODY).json()
    finish_job(store, settings.home, store.jobs.get(job["id"]))
    for path in (
        "/jobs",
        f"/jobs/{job['id']}",
        "/packs",
        "/deployments",
        "/playground",
        "/nowhere",
        "/static/style.css",
    ):
        answer = client.get(f"/ui{path}", headers=HTML)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if not path.startswith("/static"):
            assert answer.headers["cache-control"] == "no-store"
            for each in parse(answer.text).walk():
                assert "style" not in each.attributes
                assert not [name for name in each.attributes if name.startswith("on")]
                assert each.tag != "script" or (each.attributes["src"].startswith("/ui/") and not each.text.strip())
                address = each.attributes.get("href", "") + each.attributes.get("src", "")
                assert not address or address.startswith(("/ui", "#", "/openapi.json")), "nothing comes from elsewhere"


def test_no_page_shows_a_key_or_the_cookie(client: TestClient, store: JobStore, settings: Settings) -> None:
    text = key(store, "ada", *ALL)
    job = client.post("/v1/adaptations", json=BODY, headers={"authorization": f"Bearer {text}"}).json()
    finish_job(store, settings.home, store.jobs.get(job["id"]))
    login(client, text)
    secret, cookie = text.split("_")[-1], client.cookies[COOKIE]
    shown = 0
    for method, path in ROUTES:
        if method == "GET" and not path.endswith("/stream"):
            answer = call(client, method, path, job["id"])
            shown += answer.status_code == 200
            assert secret not in answer.text
            assert cookie not in answer.text
    assert shown >= 7


def test_static_files_may_be_kept_for_good(client: TestClient) -> None:
    page = parse(client.get("/ui/jobs", headers=HTML).text)
    address = page.one("link", rel="stylesheet").attributes["href"]
    assert "?v=" in address
    answer = client.get(address)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"].startswith("text/css")
    assert client.get("/ui/static/../app.py").status_code == 404


def test_a_session_lasts_hours_not_days(client: TestClient, store: JobStore) -> None:
    login(client, key(store, "ada"))
    session = Sessions(client.app.state.services.settings.home).open(client.cookies[COOKIE])  # type: ignore[attr-defined]
    assert session is not None
    assert time.time() + LIFETIME_S - 60 < session.expires_at <= time.time() + 12 * 3600
