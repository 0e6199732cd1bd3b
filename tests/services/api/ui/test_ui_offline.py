"""Nothing that a browser is told to load comes from elsewhere: every page and asset that `/` and `/docs` lead to."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import pytest
from fastapi.testclient import TestClient
from html_pages import parse
from job_files import finish_job
from pack_files import put_pack

from api.settings import Settings
from eda_service.jobstore import JobStore

HTML = {"accept": "text/html"}
LOADING = ("href", "src", "action", "srcset", "data", "poster", "formaction", "data-stream", "ping", "xlink:href")
IN_STYLE = re.compile(r"@import|url\(|https?:|//[a-z]")
IN_SCRIPT = re.compile(r"https?:|[\"'`]//|\bimport\s*[({]|\bimport\s+\S+\s+from")
NAMESPACE = "http://www.w3.org/2000/svg"
MOST_BYTES = 300_000


@pytest.fixture
def walked(client: TestClient, store: JobStore, settings: Settings) -> dict[str, str]:
    """Text of everything that can be reached by links, by path."""
    job = client.post("/v1/adaptations", json={"model": "org/model", "base_draft": "small@1"}).json()
    finish_job(store, settings.home, store.jobs.get(job["id"]))
    put_pack(settings.home, "math", 2.0)
    client.post("/v1/deployments", json={"name": "a", "model": "org/model", "pack": "math@1"})
    waiting, found = ["/", "/docs"], {}
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        answer = client.get(path, headers=HTML)
        assert answer.status_code == 200, path
        found[path] = answer.text
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        assert "default-src 'none'" in answer.headers["content-security-policy"], path
        assert "http" not in answer.headers["content-security-policy"], path
        for element in parse(answer.text).walk():
            links = [element.attributes[name] for name in ("href", "src") if name in element.attributes]
            waiting += [urlsplit(urljoin(str(answer.url), link))._replace(fragment="").geturl() for link in links]
    return {urlsplit(path).path: text for path, text in found.items()}


def test_no_page_or_asset_asks_a_third_party(walked: dict[str, str]) -> None:
    assert set(walked) >= {"/", "/docs", "/ui/docs/endpoint", "/ui/jobs", "/ui/packs", "/ui/deployments/a"}
    assert {path.rsplit(".", 1)[1] for path in walked if path.startswith("/ui/static/")} == {"css", "js", "svg"}
    for path, text in walked.items():
        assert len(text.encode()) < MOST_BYTES, path
        if path.endswith(".css"):
            assert not IN_STYLE.search(text), path
        elif path.endswith(".js"):
            assert not IN_SCRIPT.search(text), path
        elif path.endswith(".svg"):
            assert "http" not in text.replace(NAMESPACE, ""), path
        elif not path.endswith((".json", "report.html")):
            for element in parse(text).walk():
                for name in set(LOADING) & set(element.attributes):
                    assert re.match(r"/(?!/)|#", element.attributes[name]), (path, element.tag, name)


def test_what_fastapi_would_load_from_elsewhere_is_not_there(client: TestClient) -> None:
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert client.get(path).status_code == 404
    assert client.get("/", follow_redirects=False).headers["location"] == "/ui/"
    assert client.get("/docs").url.path == "/ui/docs"


def test_the_api_is_described_whole(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    told = parse(client.get("/docs", headers=HTML).text)
    shown = {tuple(each.one("a").text.split()) for each in told.all("li") if each.all("code")}
    assert shown == {(method.upper(), path) for path, found in document["paths"].items() for method in found}
    page = parse(client.get("/ui/docs/deployments", headers=HTML).text)
    schema = document["components"]["schemas"]["DeploymentRequest"]
    table = page.one("div", **{"aria-label": "Fields of DeploymentRequest"})
    assert [each.one("code").text for each in table.all("th", scope="row")] == list(schema["properties"])
    linked = {each.attributes["href"] for each in page.all("a") if each.attributes["href"].startswith("#schema-")}
    assert linked <= {f"#{each.attributes['id']}" for each in page.all("h3")}
    commands = [each.text for each in page.all("pre")]
    assert any(each.startswith("curl -X POST http://testserver/v1/deployments \\\n") for each in commands)
    assert client.get("/ui/docs/nothing", headers=HTML).status_code == 404
