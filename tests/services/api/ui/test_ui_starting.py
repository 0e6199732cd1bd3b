"""Pages where things are started: a new adaptation in two steps, files, imports, and actions on what is there."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from html_pages import Element, parse
from pack_files import put_pack

from api.app import create_app
from api.settings import Settings
from eda_service.jobstore import JobStore
from eda_service.storage.samples import prompts

HTML = {"accept": "text/html"}
BODY = {"model": "org/model", "base_draft": "small@1", "force": True}


def rows(count: int = 90) -> bytes:
    return "".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(count)).encode()


def read(client: TestClient, path: str, status: int = 200) -> Element:
    answer = client.get(f"/ui{path}", headers=HTML)
    assert answer.status_code == status, answer.text
    return parse(answer.text)


def filled(page: Element, action: str) -> dict[str, str]:
    """What a browser would send of a form as it is shown; files and boxes without a mark are left out."""
    form = page.one("form", action=action)
    sent: dict[str, str] = {}
    for each in form.walk():
        name, kind = each.attributes.get("name"), each.attributes.get("type")
        is_left_out = kind == "file" or (kind == "checkbox" and "checked" not in each.attributes)
        if not name or is_left_out or each.tag == "button":
            continue
        if each.tag == "select":
            options = each.all("option")
            chosen = next((option for option in options if "selected" in option.attributes), options[0])
            sent[name] = chosen.attributes.get("value", chosen.text.strip())
        elif each.tag in {"input", "textarea"}:
            sent[name] = each.text if each.tag == "textarea" else each.attributes.get("value", "")
    return sent


def press(client: TestClient, path: str, fields: dict[str, str], files: Any = None) -> Any:
    """Send a form as a browser does; the one with a file input is multipart also where no file was chosen."""
    if path == "/ui/new":
        files = {"upload": files or ("", b"", "application/octet-stream")}
    return client.post(path, data=fields, files=files, headers=HTML, follow_redirects=False)


def ask(client: TestClient, upload: tuple[str, bytes] | None = None, **changes: str) -> Any:
    fields = {**filled(read(client, "/new"), "/ui/new"), "model": "org/model", "draft": "small@1", **changes}
    return press(client, "/ui/new", fields, upload)


def test_from_a_file_of_this_computer_to_a_queued_job(client: TestClient, store: JobStore) -> None:
    checked = ask(client, ("mine.jsonl", rows()), name="pair", priority="70", settings="train.epochs=3\nseed=5")
    assert checked.status_code == 200, checked.text
    page = parse(checked.text)
    assert "split off mine.jsonl" in page.one("main").text
    assert "mine.jsonl, 90 of them" in page.one("main").text
    estimate = client.post("/v1/adaptations/estimate", json={**BODY, "dataset": {"source": "self"}}).json()
    assert [row.all("th")[0].text for row in page.one("tbody").all("tr")] == [s["stage"] for s in estimate["stages"]]
    assert store.jobs.page()[0] == []
    sent = filled(page, "/ui/new/queue")
    queued = press(client, "/ui/new/queue", {**sent, "force": "on"})
    (job,) = store.jobs.page()[0]
    assert (queued.status_code, queued.headers["location"]) == (303, f"/ui/jobs/{job.id}")
    config = job.adapt_config()
    assert (config.public_name, config.train.epochs, config.seed, job.priority) == ("pair", 3, 5, 70)
    assert (config.base_draft, config.dataset.num_prompts, config.deploy.enabled) == ("small@1", 90, True)
    (file,) = client.get("/v1/files").json()["data"]
    assert (config.dataset.source, file["filename"]) == (file["id"], "mine.jsonl")
    again = press(client, "/ui/new/queue", {**sent, "force": "on"})
    assert (again.headers["location"], len(store.jobs.page()[0])) == (f"/ui/jobs/{job.id}", 1)


def test_pasted_and_kept_prompts_become_files(client: TestClient, settings: Settings, store: JobStore) -> None:
    pasted = ask(client, pasted="\n".join(f"what is {n}?" for n in range(20)), num_prompts="16", settings=HELD_OUT)
    assert pasted.status_code == 200, pasted.text
    as_json = ask(client, pasted=rows(20).decode(), num_prompts="16", settings=HELD_OUT)
    assert as_json.status_code == 200, as_json.text
    drift = {"keep_prompts": 50}
    client.post("/v1/deployments", json={"name": "pair", "model": "org/model", "base_draft": "small@1", "drift": drift})
    assert "has kept no prompts" in parse(ask(client, kept="pair").text).one("p", id="failure").text
    ring = prompts.PromptFile(prompts.open_directory(settings.home, store.deployments.get("pair").uid) / "r.jsonl", 50)
    for n in range(20):
        ring.add({"at": float(n), "messages": [{"role": "user", "content": f"kept {n}"}]})
    kept = ask(client, kept="pair", num_prompts="16", settings=HELD_OUT)
    assert kept.status_code == 200, kept.text
    found = client.get("/v1/files").json()["data"]
    assert [(each["filename"], each["num_prompts"]) for each in found] == [
        ("kept-by-pair.jsonl", 20),
        ("pasted.jsonl", 20),
        ("pasted.jsonl", 20),
    ]
    content = client.get(f"/v1/files/{found[0]['id']}/content").text
    assert json.loads(content.splitlines()[0]) == {"messages": [{"role": "user", "content": "kept 0"}]}


HELD_OUT = "evaluation.num_prompts=4"


@pytest.mark.parametrize(
    ("changes", "upload", "said"),
    [
        ({"model": ""}, None, "names no target"),
        ({"model": "not a model!"}, None, "neither an id"),
        ({"draft": "nothing@9"}, None, "no base draft"),
        ({"pasted": "a\nb", "source": "self"}, None, "pasted prompts and as a data set by its name"),
        ({"source": "self"}, ("rows.jsonl", rows()), "a file from this computer and as a data set"),
        ({"pasted": "only one prompt"}, None, "has 1 distinct prompts"),
        ({"num_prompts": "many"}, None, "no whole number"),
        ({"settings": "train.epoch=3"}, None, "did you mean"),
        ({"file": "file-" + "0" * 26}, None, "names no uploaded file of yours"),
        ({}, ("table.parquet", b"PAR1..."), "is a Parquet file"),
    ],
)
def test_what_cannot_be_is_said_in_the_form_and_what_was_typed_stays(
    client: TestClient, store: JobStore, changes: dict[str, str], upload: tuple[str, bytes] | None, said: str
) -> None:
    answer = ask(client, upload, **{"name": "pair", **changes})
    assert answer.status_code == 400
    page = parse(answer.text)
    assert said in page.one("p", id="failure").text
    again = filled(page, "/ui/new")
    assert again["name"] == "pair"
    for name, value in changes.items():
        if upload is None:
            assert again[name] == value
    assert store.jobs.page()[0] == []
    there = [each["filename"] for each in client.get("/v1/files").json()["data"]]
    assert there == (
        ["rows.jsonl"] if upload == ("rows.jsonl", rows()) else []
    )  # what was sent whole is not sent again


def test_an_address_fills_the_form_and_leads_back_to_it(client: TestClient) -> None:
    page = read(client, "/new?model=org/other&preset=demo&draft=small@1&name=pair&deploy=")
    shown = filled(page, "/ui/new")
    assert (shown["model"], shown["preset"], shown["draft"], shown["name"]) == ("org/other", "demo", "small@1", "pair")
    assert "deploy" not in shown
    checked = parse(ask(client, source="self", name="pair").text)
    (back,) = [each for each in checked.all("a") if each.text == "Change it"]
    shown = filled(read(client, back.attributes["href"].removeprefix("/ui")), "/ui/new")
    assert (shown["source"], shown["name"], shown["deploy"]) == ("self", "pair", "on")


def test_a_form_with_a_file_needs_its_token_before_anything_else(client: TestClient, settings: Settings) -> None:
    token = filled(read(client, "/files"), "/ui/files")["token"]
    for fields in ({}, {"token": "0" * 64}):
        answer = client.post("/ui/files", data=fields, files={"file": ("a.jsonl", rows())})
        assert answer.json()["error"]["code"] == "form_token_invalid"
    late: Any = [("file", ("a.jsonl", rows())), ("token", (None, token))]
    assert client.post("/ui/files", files=late).json()["error"]["code"] == "form_token_invalid"
    assert not list((settings.home / "files").glob("*")) if (settings.home / "files").exists() else True


def test_files_are_sent_shown_kept_and_deleted(client: TestClient) -> None:
    assert "data upload FILE" in read(client, "/files").one("main").text
    token = filled(read(client, "/files"), "/ui/files")
    sent = press(client, "/ui/files", token, {"file": ("my <b>rows.jsonl", rows(30))})
    file_id = sent.headers["location"].partition("#")[2]
    row = read(client, "/files").one("tr", id=file_id)
    assert "<b>rows.jsonl" in row.one("th").text
    assert row.all("td")[0].text.strip() == "30"
    links = [each.attributes["href"] for each in row.all("a")]
    assert links == [f"/ui/new?file={file_id}", f"/ui/files/{file_id}/content"]
    assert client.get(links[1]).content == rows(30)
    refused = press(client, "/ui/files", token, {"file": ("x", b"{}")})
    assert (refused.status_code, parse(refused.text).one("p", id="failure").text != "") == (400, True)
    assert press(client, f"/ui/files/{file_id}/delete", token).status_code == 303
    assert client.get("/v1/files").json()["data"] == []


def test_a_draft_is_imported_from_its_page(client: TestClient, store: JobStore) -> None:
    form = filled(read(client, "/drafts/import"), "/ui/drafts/import")
    wanted = {**form, "source": "org/draft", "model": "org/base", "name": "ours", "overrides": "rope_theta=500000"}
    assert press(client, "/ui/drafts/import", wanted).headers["location"] == "/ui/drafts"
    (job,) = store.jobs.page()[0]
    assert (job.kind.value, job.config["source"], job.config["name"]) == ("import_draft", "org/draft", "ours")
    assert (job.config["overrides"], job.config["check"]) == ({"rope_theta": "500000"}, True)
    assert "org/draft" in read(client, "/drafts").one("section", **{"aria-labelledby": "imports"}).text
    refused = press(client, "/ui/drafts/import", {**wanted, "overrides": "odd"})
    assert (refused.status_code, filled(parse(refused.text), "/ui/drafts/import")["source"]) == (400, "org/draft")


def test_packs_are_deployed_pinned_and_downloaded(client: TestClient, store: JobStore, settings: Settings) -> None:
    for length in (2.0, 1.9):
        put_pack(settings.home, "math", length)
    form = filled(read(client, "/packs"), "/ui/packs/math/deploy")
    assert (form["version"], form["served_as"]) == ("1", "math")
    made = press(client, "/ui/packs/math/deploy", form)
    assert made.headers["location"] == "/ui/deployments/math", made.text
    assert store.deployments.get("math").pack == "math@1"
    worse = press(client, "/ui/packs/math/deploy", {**form, "version": "2"})
    assert (worse.status_code, store.deployments.get("math").pack) == (409, "math@1")
    press(client, "/ui/packs/math/deploy", {**form, "version": "2", "force": "on"})
    assert store.deployments.get("math").pack == "math@2"
    press(client, "/ui/packs/math/champion", {**form, "version": "2"})
    assert "Champion: version 2 (pinned)" in read(client, "/packs").one("main").text
    press(client, "/ui/packs/math/champion", {**form, "unpin": "on"})
    assert "Champion: version 1" in read(client, "/packs").one("main").text
    (link,) = [e.attributes["href"] for e in read(client, "/packs").all("a") if e.attributes["href"].endswith(".tar")]
    with tarfile.open(fileobj=io.BytesIO(client.get(link).content)) as archive:
        inside = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    published = Path(settings.home / "packs" / "math" / "1")
    assert inside == {
        f"math-1/{path.relative_to(published)}": path.read_bytes() for path in published.rglob("*") if path.is_file()
    }


def test_a_packs_page_deploys_compares_and_removes(client: TestClient, store: JobStore, settings: Settings) -> None:
    put_pack(settings.home, "math", 2.0)
    put_pack(settings.home, "math", 2.5, base=1.6)
    put_pack(settings.home, "math", 2.1, prompts="others")
    assert "Serve it" in read(client, "/packs/math?before=1").one("main").text  # there is no older one
    alone = filled(read(client, "/packs/math"), "/ui/packs/math/deploy")
    press(client, "/ui/packs/math/deploy", {**alone, "version": "1"})
    assert store.deployments.get("math").pack == "math@1"

    beside = read(client, "/packs/math?compare=2&beside=1").one("section", **{"aria-labelledby": "beside"})
    assert [row.text for row in beside.all("tr")][1:] == ["math@22.50–", "math@12.00–"]
    assert "math@2 accepts 1.250 times as much" in beside.text
    apart = read(client, "/packs/math?compare=3&beside=1").one("section", **{"aria-labelledby": "beside"})
    assert "math@3 and math@1 cannot be compared" in apart.text

    form = filled(read(client, "/packs/math"), "/ui/packs/math/remove")
    assert form["version"] == "1"
    used = press(client, "/ui/packs/math/remove", form)
    assert (used.status_code, "deployment math" in used.text) == (409, True)
    for version in ("2", "3"):
        assert (
            press(client, "/ui/packs/math/remove", {**form, "version": version}).headers["location"] == "/ui/packs/math"
        )
    client.delete("/v1/deployments/math")
    assert press(client, "/ui/packs/math/remove", form).headers["location"] == "/ui/packs"
    assert press(client, "/ui/packs/math/remove", {**form, "version": "x"}).status_code == 400
    assert client.get("/v1/packs").json()["data"] == []


def test_a_deployment_is_rolled_back_changed_and_removed(
    client: TestClient, store: JobStore, settings: Settings
) -> None:
    put_pack(settings.home, "math", 2.0)
    client.post("/v1/deployments", json={"name": "a", "model": "org/model", "pack": "math@1"})
    swap = filled(read(client, "/deployments/a"), "/ui/deployments/a/pack")
    assert swap["pack"] == "math@1"
    press(client, "/ui/deployments/a/pack", {**swap, "pack": ""})
    assert store.deployments.get("a").pack is None
    back = filled(read(client, "/deployments/a"), "/ui/deployments/a/rollback")
    press(client, "/ui/deployments/a/rollback", back)
    assert store.deployments.get("a").pack == "math@1"
    press(client, "/ui/deployments/a/rollback", {**back, "revision": "2"})
    assert store.deployments.get("a").pack is None
    again = next(e for e in read(client, "/deployments/a").all("a") if e.text == "Adapt again").attributes["href"]
    assert filled(read(client, again.removeprefix("/ui")), "/ui/new")["model"] == "org/model"
    gone = press(client, "/ui/deployments/a/remove", filled(read(client, "/deployments/a"), "/ui/deployments/a/remove"))
    assert (gone.headers["location"], store.deployments.all()) == ("/ui/deployments", [])


def test_a_queued_job_shows_its_place_and_takes_another_priority(settings: Settings) -> None:
    app = create_app(settings)
    app.state.services.dispatcher.start = lambda: None
    with TestClient(app) as client:
        _move_up(client, app.state.services.store)


def _move_up(client: TestClient, store: JobStore) -> None:
    ids = [client.post("/v1/adaptations", json={**BODY, "seed": n}).json()["id"] for n in range(3)]
    last = ids[-1]
    page = read(client, f"/jobs/{last}")
    assert "Number 3 of 3" in page.one("div", id="queue").text
    form = {**filled(page, f"/ui/jobs/{last}/priority"), "priority": "90"}
    assert press(client, f"/ui/jobs/{last}/priority", form).status_code == 303
    assert store.jobs.get(last).priority == 90
    assert "Number 1 of 3" in read(client, f"/jobs/{last}").one("div", id="queue").text
    assert press(client, f"/ui/jobs/{last}/priority", {**form, "priority": "900"}).status_code == 400


def test_who_only_reads_finds_nothing_to_press(client: TestClient, store: JobStore, settings: Settings) -> None:
    put_pack(settings.home, "math", 2.0)
    client.post("/v1/deployments", json={"name": "a", "model": "org/model", "pack": "math@1"})
    _, text = store.keys.create("local", "x", ["jobs:read"])
    token = read(client, "/login").one("input", name="token").attributes["value"]
    client.post("/ui/login", data={"token": token, "key": text, "to": "/"}, headers=HTML)
    for path in ("/jobs", "/files", "/drafts", "/packs", "/deployments", "/deployments/a"):
        page = read(client, path)
        assert [each.attributes["action"] for each in page.all("form")] == ["/ui/logout"], path
        assert not [each for each in page.all("a") if each.attributes["href"].startswith(("/ui/new", "/ui/drafts/i"))]
    for path in ("/new", "/drafts/import"):
        read(client, path, 403)
