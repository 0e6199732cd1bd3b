"""Drafts, measurements and jobs of every kind through both clients, against the real application."""

from __future__ import annotations

import pytest
from both_clients import MakeClient
from live_api import LiveApi

from eda_service.client import ApiError
from eda_service.errors import InputError


def test_a_job_of_each_kind_is_made_found_and_stopped(make_client: MakeClient, live: LiveApi) -> None:
    client = make_client(live.url)
    (live.home.parent / "draft").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        (live.home.parent / "draft" / name).write_text("{}")
    source = str(live.home.parent / "draft")
    made = [
        client.drafts.create({"source": source, "model": source, "force": True}),
        client.measurements.create({"model": "org/model", "draft": "small@1", "force": True}),
    ]
    assert [job.kind for job in made] == ["import_draft", "measure"]
    for job in made:
        assert client.jobs.get(job.id).config == job.config
        assert job.id in {each.id for each in client.jobs.page(kind=job.kind, limit=100)}
        assert client.jobs.cancel(job.id).status == "cancelled"
        assert client.jobs.wait(job.id, timeout_s=20).is_terminal
        assert [event.type for event in client.jobs.events(job.id)] == ["job_created", "job_cancelled"]
        assert client.jobs.logs(job.id) == []
        assert client.jobs.retry(job.id).status == "queued"
        assert client.jobs.set_priority(job.id, 80).priority == 80
        client.jobs.cancel(job.id)
    assert [job.id for job in client.jobs.iterate(page_size=1) if job.id in {each.id for each in made}] == [
        job.id for job in reversed(made)
    ]
    found = client.measurements.get(made[1].id)
    assert (found.draft, found.measurement) == ("small@1", None)


def test_drafts_are_read_page_by_page_and_what_is_no_name_is_not_sent(make_client: MakeClient, live: LiveApi) -> None:
    client = make_client(live.url)
    drafts = list(client.drafts.iterate(page_size=1))
    assert [draft.id for draft in drafts] == ["small@1", "smollm2-135m@2", "smollm2-135m@3", "smollm2-135m-eagle3@1"]
    assert client.drafts.get("small").id == "small@1"
    with pytest.raises(ApiError) as refused:
        client.drafts.delete("smollm2-135m@3")
    assert refused.value.status == 409
    for odd in ("a/b", "small@latest", ""):
        with pytest.raises(InputError):
            client.drafts.get(odd)
