"""What the pages say: read from the records that real jobs have left, and from names that try to be markup."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient
from html_pages import Element, parse
from job_files import NUM_KEPT, NUM_SAMPLES, finish_job, record_of
from pack_files import put_pack

from api.endpoint.metrics.counts import ModelCounts
from api.metrics.throughput import Reading
from api.services import Services
from api.settings import Settings
from eda_service.capacity import Capacity, Machines
from eda_service.jobstore import JobStore, Status
from eda_service.measured_rows import SpeedRow
from eda_service.records import STAGES, EvalReport, Rival, Role, Stage
from eda_service.storage.runs.run import RunDir

HTML = {"accept": "text/html"}
BODY = {"model": "org/model", "base_draft": "small@1"}
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"


def create(client: TestClient, **changes: Any) -> str:
    answer = client.post("/v1/adaptations", json={**BODY, "force": True, **changes})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def read(client: TestClient, path: str, status: int = 200) -> Element:
    answer = client.get(f"/ui{path}", headers=HTML)
    assert answer.status_code == status, answer.text
    return parse(answer.text)


@pytest.fixture
def finished(client: TestClient, store: JobStore, settings: Settings) -> str:
    job_id = create(client)
    finish_job(store, settings.home, store.jobs.get(job_id))
    return job_id


def rows(page: Element) -> list[list[str]]:
    return [[" ".join(cell.text.split()) for cell in row.walk() if cell.tag in {"td", "th"}] for row in page.all("tr")]


def test_the_queue_is_paged_and_filtered(client: TestClient, store: JobStore) -> None:
    ids = [create(client, seed=n) for n in range(53)]
    store.jobs.transition(ids[0], Status.CANCELLED, event="job_cancelled", message="x")
    first = read(client, "/jobs")
    shown = [each.attributes["id"] for each in first.one("tbody", id="rows").all("tr")]
    assert shown == [f"row-{each}" for each in reversed(ids[3:])]
    older = first.one("a", rel="next").attributes["href"]
    second = read(client, older.removeprefix("/ui"))
    assert [each.attributes["id"] for each in second.one("tbody", id="rows").all("tr")] == [
        f"row-{each}" for each in reversed(ids[:3])
    ]
    assert not second.all("a", rel="next")
    tabs = {each.children[0].strip(): each.one("span").text for each in first.one("nav", id="counts").all("a")}  # type: ignore[union-attr]
    assert tabs["all"] == "53"
    assert int(tabs["queued"]) + int(tabs.get("running", "0")) == 52
    only = read(client, "/jobs?status=cancelled")
    assert [each.attributes["id"] for each in only.one("tbody", id="rows").all("tr")] == [f"row-{ids[0]}"]
    read(client, "/jobs?status=odd", 400)


def test_a_job_that_the_cluster_does_not_hold_says_what_it_waits_for(client: TestClient, store: JobStore) -> None:
    job_id = create(client)
    assert store.leases.tell_misfits(Machines(Capacity(cpus=0.2, gpus=0))) == [job_id]
    waits = client.get(f"/v1/adaptations/{job_id}").json()["waits_for"]
    assert "and the cluster has 0.2 CPUs and 0 GPUs: it starts once machines with as much have joined" in waits
    assert waits in read(client, f"/jobs/{job_id}").one("dl", id="state").text
    assert "waits for machines" in read(client, "/jobs").one("tr", id=f"row-{job_id}").text
    store.jobs.transition(job_id, Status.CANCELLED, event="job_cancelled", message="x")
    assert client.get(f"/v1/adaptations/{job_id}").json()["waits_for"] is None
    assert "waits for machines" not in read(client, "/jobs").one("tr", id=f"row-{job_id}").text


def test_a_finished_job_shows_what_its_records_say(client: TestClient, finished: str) -> None:
    page = read(client, f"/jobs/{finished}")
    report, trained = record_of(Stage.EVALUATE), record_of(Stage.TRAIN)
    lengths = {(row["draft"], row["temperature"]): row["acceptance_length"] for row in report["acceptance"]}
    before, after = lengths["base_draft", 0.0], lengths["adapted_draft", 0.0]
    facts = page.one("div", id="outcome").all("dd")
    assert f"{before:.2f} before, {after:.2f} after" in facts[0].text
    assert any("core hours" in each.text and "on disk" in each.text for each in facts)
    head = page.one("p", **{"class": "headline"})
    assert [each.text for each in head.all("b")] == [f"{before:.2f}", f"{after:.2f}"]
    assert f"{after / before - 1:+.0%}" in head.text
    table = rows(page)
    for row in report["acceptance"]:
        name = row["draft"].replace("_", " ")
        wanted = [name, f"{row['temperature']:g}", f"{row['acceptance_length']:.2f}", f"{row['acceptance_rate']:.1%}"]
        assert wanted in table
    stages = {row[0].split()[0]: row for row in table if row and row[0].split()[0] in set(STAGES)}
    assert list(stages) == [stage.value for stage in STAGES]
    assert f"kept {NUM_KEPT} of {NUM_SAMPLES}" in stages["select"][-1]
    assert f"{trained['num_trainable']:,} of {trained['num_parameters']:,} parameters" in stages["train"][-1]
    minutes, seconds = divmod(round(trained["seconds"]), 60)
    assert stages["train"][1] == f"{minutes}m{seconds:02d}s"
    assert all(row[0].endswith("done") for row in stages.values())
    titles = [each.text for each in page.all("figcaption")]
    assert titles == ["Acceptance by position", "Training loss", "Simulated acceptance length", "Sample values"]
    assert [
        each.attributes["href"].rsplit("/", 1)[1] for each in page.all("a") if "/logs/" in each.attributes["href"]
    ] == [stage.value for stage in STAGES]


def test_each_chart_has_its_numbers_in_words_and_as_a_table(client: TestClient, finished: str) -> None:
    page = read(client, f"/jobs/{finished}")
    for figure in page.all("figure"):
        image = figure.one("svg", role="img")
        assert len(image.attributes["aria-label"]) > len(figure.one("figcaption").text) + 10
        assert figure.one("details").all("tbody")
    acceptance = page.all("figure")[0]
    table = [[cell.text for cell in row.walk() if cell.tag in {"td", "th"}] for row in acceptance.all("tr")][1:]
    by_position = record_of(Stage.EVALUATE)["acceptance"][1]["acceptance_by_position"]
    assert [float(row[2]) for row in table] == pytest.approx(by_position, abs=5e-3)
    histogram = page.all("figure")[3]
    counts = [int(row.all("td")[0].text) for row in histogram.one("tbody").all("tr")]
    assert sum(counts) == NUM_SAMPLES
    kept = histogram.all("rect", **{"class": "b-kept"})
    assert 0 < len(kept) < len(counts)


def test_a_failed_job_says_why_and_can_be_retried(client: TestClient, store: JobStore) -> None:
    job_id = create(client)
    error = {"code": "dataset_invalid", "message": HOSTILE, "param": "dataset.source", "retryable": False}
    store.jobs.transition(job_id, Status.FAILED, event="job_failed", message="no prompts", level="error", error=error)
    page = read(client, f"/jobs/{job_id}")
    assert HOSTILE in page.one("p", **{"class": "bad"}).text
    assert page.all("form", action=f"/ui/jobs/{job_id}/retry")
    assert not page.all("form", action=f"/ui/jobs/{job_id}/cancel")
    token = page.all("input", name="token")[0].attributes["value"]
    answer = client.post(f"/ui/jobs/{job_id}/retry", data={"token": token}, headers=HTML, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/ui/jobs/{job_id}")
    assert store.jobs.get(job_id).status in {"queued", "running"}
    again = client.post(f"/ui/jobs/{job_id}/retry", data={"token": token}, headers=HTML)
    assert again.status_code == 409
    assert "only a job that is cancelled or failed" in parse(again.text).one("main").text


def test_names_that_try_to_be_markup_are_text(client: TestClient, store: JobStore, settings: Settings) -> None:
    job_id = create(client, metadata={HOSTILE[:40]: HOSTILE})
    store.events.add(job_id, "note", HOSTILE)
    run = RunDir.of_job(job_id, settings.home)
    run.log_path(Stage.TRAIN).write_text(f"{HOSTILE}\n", encoding="utf-8")
    (run.root / "train").mkdir()
    (run.root / "train" / "record.json").write_text("{}", encoding="utf-8")
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/logs/train"):
        page = read(client, path)
        assert HOSTILE in page.text
        assert not page.all("img")
        assert [each.attributes.get("src", "")[:11] for each in page.all("script")] in ([], ["/ui/static/"])
    assert "stage train does not parse" in read(client, f"/jobs/{job_id}").one("main").text
    missing = client.get("/ui/jobs/%3Cscript%3E", headers=HTML)
    assert "<script>alert" not in missing.text
    assert missing.status_code == 400


def test_loss_shows_while_training_runs(client: TestClient, store: JobStore, settings: Settings) -> None:
    job_id = create(client)
    run = RunDir.of_job(job_id, settings.home)
    (run.root / "train").mkdir(parents=True)
    points = record_of(Stage.TRAIN)["curve"][:6]
    text = "\n".join(map(json.dumps, points)) + '\n{"step": 99, "lo'
    (run.root / "train" / "curve.jsonl").write_text(text, encoding="utf-8")
    (loss, _) = read(client, f"/jobs/{job_id}").all("figure")
    shown = [float(row.all("td")[0].text) for row in loss.one("tbody").all("tr")]
    losses = [point["loss"] for point in points if point["simulated_acceptance_length"] is None]
    assert shown == pytest.approx(losses, abs=6e-3)


def test_packs_show_versions_and_the_champion(client: TestClient, settings: Settings, finished: str) -> None:
    put_pack(settings.home, "math", 2.0)
    put_pack(settings.home, "math", 1.9)
    page = read(client, "/packs")
    found = {each.one("h2").text: each for each in page.all("section")}
    assert set(found) == {"math", "model"}
    assert "Champion: version 1" in found["math"].text
    assert [row[:3] for row in rows(found["math"])[1:]] == [["2", "1.40", "1.90"], ["1", "1.40", "2.00"]]
    export = "/ui/packs/model/export?version=1"
    places = ["/ui/packs/model", f"/ui/jobs/{finished}", export, "/ui/packs/model/1.tar"]
    assert [each.attributes["href"] for each in found["model"].all("a")] == places


def test_a_pack_shows_acceptance_over_its_versions_and_how_to_use_it(client: TestClient, settings: Settings) -> None:
    for after, before in ((2.0, 1.4), (1.9, 1.5), (2.25, 1.45)):
        put_pack(settings.home, "math", after, base=before)
    page = read(client, "/packs/math")
    figure = page.one("figure")
    table = [[cell.text for cell in row.walk() if cell.tag in {"th", "td"}] for row in figure.one("tbody").all("tr")]
    assert table == [["1", "2", "1.4"], ["2", "1.9", "1.5"], ["3", "2.25", "1.45"]]
    assert "the best is version 3 with 2.25" in figure.one("p", **{"class": "summary"}).text
    assert [row[0] for row in rows(page.one("section", **{"aria-labelledby": "versions"}))[1:]] == ["3", "2", "1"]
    (serve,) = page.all("pre")
    assert json.loads(serve.text.split("-d '")[1].removesuffix("'")) == {
        "name": "math",
        "model": "org/model",
        "pack": "math@3",
    }
    assert client.post("/v1/deployments", json={"name": "a", "model": "org/model", "pack": "math@3"}).status_code == 201
    page = read(client, "/packs/math")
    curl, code = (each.text for each in page.all("pre"))
    assert json.loads(curl.split("-d '")[1].removesuffix("'"))["model"] == "a"
    assert curl.startswith("curl http://testserver/v1/chat/completions \\\n")
    compile(code, "snippet", "exec")
    assert 'base_url="http://testserver/v1"' in code
    assert [
        row[0] for row in rows(read(client, "/packs/math?before=2").one("section", **{"aria-labelledby": "versions"}))
    ][1:] == ["1"]
    read(client, "/packs/nothing", 404)


def test_deployments_show_state_pack_history_and_memory(client: TestClient, settings: Settings) -> None:
    put_pack(settings.home, "math", 2.0)
    client.post("/v1/deployments", json={"name": "a", "model": "org/model", "pack": "math@1"})
    client.patch("/v1/deployments/a", json={"pack": None, "reason": HOSTILE})
    (row,) = rows(read(client, "/deployments"))[1:]
    assert (row[0].split()[0], row[1], row[2]) == ("a", "pending", "no pack")
    page = read(client, "/deployments/a")
    assert "Ray does not answer" in page.one("div", id="state").text
    assert [each[0] for each in rows(page)[1:]] == ["2", "1"]
    assert HOSTILE in page.text
    assert "No replica answers" in page.one("div", id="served").text
    assert "Nothing was asked" in page.one("div", id="lately").text
    assert [json.loads(each.text.split("-d '")[1].removesuffix("'"))["model"] for each in page.all("pre")[:1]] == ["a"]
    read(client, "/deployments/nobody", 404)


def test_a_deployment_shows_its_last_hours(client: TestClient, settings: Settings) -> None:
    put_pack(settings.home, "math", 2.0)
    client.post("/v1/deployments", json={"name": "a", "model": "org/model", "pack": "math@1"})
    services: Services = client.app.state.services  # type: ignore[attr-defined]
    history, uid = services.history, services.store.deployments.get("a").uid
    now, tokens = time.monotonic(), 0
    for minute in range(31):  # a token in two rounds of one draft token, of which each second one is accepted
        tokens += 600 * (minute > 0)
        counts = ModelCounts(num_new_tokens=tokens, num_rounds=tokens, tried_at=[tokens], accepted_at=[tokens // 2])
        reading = Reading(uid, now - 1800 + 60 * minute, counts)
        history._readings = lambda _, found=reading: {uid: found}
        history.run_once()
    page = read(client, "/deployments/a")
    speed, acceptance = page.one("div", id="lately").all("figure")
    shown = [float(row.all("td")[0].text) for row in speed.one("tbody").all("tr")]
    assert len(shown) >= 10
    assert shown == pytest.approx([10.0] * len(shown), rel=0.05)
    lines = acceptance.one("thead").all("th")
    assert [each.text for each in lines] == ["minutes ago", "served", "published", "base draft"]
    served = [float(row.all("td")[0].text) for row in acceptance.one("tbody").all("tr") if row.all("td")[0].text]
    assert served == pytest.approx([sum(0.5**place for place in range(6))] * len(served), rel=0.02)
    assert "Published with 2.00, 1.40 with the base draft" in acceptance.text
    assert acceptance.one("tbody").all("th")[-1].text == "now"


def test_the_report_needs_nothing_else(client: TestClient, finished: str) -> None:
    answers = [client.get(f"/{place}/{finished}/report.html") for place in ("v1/adaptations", "ui/jobs")]
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["content-disposition"] == f'attachment; filename="{finished}.html"'
        page = parse(answer.text)
        assert len(page.all("figure")) == 4
        assert "--adapted" in page.one("style").text
        assert not [each for each in page.walk() if each.tag in {"script", "link", "img"} or "src" in each.attributes]
        assert not [each for each in page.walk() if each.attributes.get("href", "#")[0] != "#"]
        assert record_of(Stage.EVALUATE)["machine"]["processor"] in page.text
        assert len(answer.content) < 300_000
    assert client.get(f"/v1/adaptations/{create(client)}/report.html").status_code == 404


def test_page_and_report_show_rivals_what_was_measured_on_and_what_became_of_the_pack(
    client: TestClient, store: JobStore, settings: Settings
) -> None:
    job_id = create(client, dataset={"source": "reasoning-gym:gsm_symbolic", "num_prompts": 64}, served_name="math")
    job = finish_job(store, settings.home, store.jobs.get(job_id), kept="too little gain: <1.000>")
    run = RunDir.of_job(job.id, settings.home)
    report = run.read_record(EvalReport, Stage.EVALUATE, verify=False)
    assert report is not None
    served = report.acceptance[0].model_copy(update={"draft": "pack:math@7", "acceptance_length": 2.22})
    speed = SpeedRow(
        mode="pack:math@7",
        num_draft_tokens=5,
        temperature=served.temperature,
        tokens_per_s=12.34,
        speedup_over_autoregressive=1.5,
        speedup_min=1.4,
        speedup_max=1.6,
    )
    rivals = (
        Rival(pack="math@7", roles=(Role.SERVED, Role.CHAMPION), acceptance=(served,), speed=(speed,)),
        Rival(pack="math@6", roles=(Role.CHAMPION,), left_out=HOSTILE),
    )
    run.write_record(report.model_copy(update={"rivals": rivals}))
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/report.html"):
        page = read(client, path)
        (row,) = [each for each in rows(page) if each and each[0] == "math@7 (served, champion)"]
        assert (row[2], *row[4:]) == ("2.22", "12.3", "1.50× (1.40–1.60)")
        assert f"math@6 was not measured: {HOSTILE}" in page.text
        assert any("on 16 prompts split off reasoning-gym:gsm_symbolic" in each.text for each in page.all("caption"))
        assert "too little gain: <1.000>" in page.text
    body = client.get(f"/v1/adaptations/{job_id}/report").json()
    assert body["measured_on"] == "16 prompts split off reasoning-gym:gsm_symbolic"
    assert [each["pack"] for each in body["rivals"]] == ["math@7", "math@6"]
    assert client.get(f"/v1/adaptations/{job_id}").json()["measured_on"] == body["measured_on"]
    (version,) = client.get("/v1/packs/math").json()["versions"]
    assert version["evaluation"]["measured_on"] == "16 of the prompts that the target wrote itself"
    assert "16 of the prompts that the target wrote itself" in read(client, "/packs").text
