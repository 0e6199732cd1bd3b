"""Samples over HTTP and on their page: paged, bounded, of their owner alone, and what a run of before says."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from html_pages import parse
from job_files import NUM_KEPT, NUM_SAMPLES, finish_job, keep_samples

from api.settings import Settings
from eda_service.jobstore import JobStore
from eda_service.records import SelectionManifest, SelfGenManifest, Stage
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples.samples import NO_TEXTS

HTML = {"accept": "text/html"}
BODY = {"model": "org/model", "base_draft": "small@1"}


@pytest.fixture
def old(client: TestClient, store: JobStore, settings: Settings) -> str:
    job_id = str(
        client.post("/v1/adaptations", json={"model": "org/model", "base_draft": "small@1", "force": True}).json()["id"]
    )
    finish_job(store, settings.home, store.jobs.get(job_id))
    return job_id


@pytest.fixture
def finished(old: str, settings: Settings) -> str:
    keep_samples(RunDir.of_job(old, settings.home))
    return old


def walk(client: TestClient, job_id: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    params = {"limit": 100, **query}
    while True:
        page = client.get(f"/v1/adaptations/{job_id}/samples", params=params).json()
        found += page["data"]
        if not page["has_more"]:
            return found
        params["after"] = page["last_id"]


def test_kept_and_dropped_are_all_there_once(client: TestClient, finished: str) -> None:
    everything = walk(client, finished)
    assert [each["id"] for each in everything] == [f"smp_{rank}" for rank in range(1, NUM_SAMPLES + 1)]
    values = [each["sample_value"] for each in everything]
    assert values == sorted(values, reverse=True)
    kept, dropped = walk(client, finished, kept="true"), walk(client, finished, kept="false")
    assert (len(kept), len(dropped)) == (NUM_KEPT, NUM_SAMPLES - NUM_KEPT)
    assert min(each["sample_value"] for each in kept) > max(each["sample_value"] for each in dropped)
    assert sorted(each["id"] for each in kept + dropped) == sorted(each["id"] for each in everything)
    name = dropped[0]["sample_id"]
    assert dropped[0]["answer"] == f"<i>answer</i> {name}"
    assert dropped[0]["messages"] == [{"role": "user", "content": f"<b>question</b> {name}"}]
    first = client.get(f"/v1/adaptations/{finished}/samples").json()
    assert (len(first["data"]), first["num_kept"], first["num_dropped"], first["note"]) == (20, 160, 160, None)


def test_a_value_goes_by_its_selectors_name(client: TestClient, finished: str, settings: Settings) -> None:
    path = f"/v1/adaptations/{finished}/samples?limit=1"
    assert client.get(path).json()["value_name"] == "distance"
    run = RunDir.of_job(finished, settings.home)
    for record in (
        run.read_record(SelfGenManifest, Stage.GENERATE, verify=False),
        run.read_record(SelectionManifest, Stage.SELECT, verify=False),
    ):
        assert record is not None
        run.write_record(record.model_copy(update={"value_name": "draft_loss"}))
    assert client.get(path).json()["value_name"] == "draft_loss"
    page = parse(client.get(f"/ui/jobs/{finished}/samples", headers=HTML).text)
    assert [each.text for each in page.all("th")][1] == "Draft loss"
    assert "the largest draft loss first. Selection kept 160, of draft loss" in page.text
    job = client.get(f"/ui/jobs/{finished}", headers=HTML).text
    assert f"Draft loss of {NUM_SAMPLES} self-generated samples: " in job


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=101", "limit"),
        ("limit=0", "limit"),
        ("after=x", "after"),
        ("after=smp_-1", "after"),
        ("kept=perhaps", "kept"),
    ],
)
def test_what_is_asked_for_wrongly_is_named(client: TestClient, finished: str, query: str, param: str) -> None:
    answer = client.get(f"/v1/adaptations/{finished}/samples?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_run_of_before_says_what_it_lacks(client: TestClient, old: str) -> None:
    page = client.get(f"/v1/adaptations/{old}/samples?kept=true&limit=2").json()
    assert page["note"] == NO_TEXTS
    assert [(each["answer"], each["messages"]) for each in page["data"]] == [(None, None)] * 2
    assert NO_TEXTS[5:] in parse(client.get(f"/ui/jobs/{old}/samples", headers=HTML).text).text


def test_a_job_that_has_not_come_that_far_has_none(client: TestClient) -> None:
    job_id = client.post("/v1/adaptations", json=BODY).json()["id"]
    answer = client.get(f"/v1/adaptations/{job_id}/samples")
    assert answer.status_code == 404
    assert "stage `select`" in answer.json()["error"]["message"]
    assert client.get("/v1/adaptations/adapt_none/samples").status_code == 404


def test_the_page_shows_text_as_text_and_leads_on(client: TestClient, finished: str) -> None:
    job = parse(client.get(f"/ui/jobs/{finished}", headers=HTML).text)
    link = next(each.attributes["href"] for each in job.all("a") if each.attributes["href"].endswith("/samples"))
    page = parse(client.get(f"{link}?kept=false", headers=HTML).text)
    wanted = walk(client, finished, kept="false")
    shown = [each.attributes["id"] for each in page.one("tbody").all("tr")]
    assert shown == [each["id"] for each in wanted[:25]]
    assert f"<i>answer</i> {wanted[0]['sample_id']}" in page.text
    assert not page.one("tbody").all("i")
    onward = page.one("a", rel="next").attributes["href"]
    second = parse(client.get(onward, headers=HTML).text)
    assert second.one("tbody").all("tr")[0].attributes["id"] == wanted[25]["id"]
