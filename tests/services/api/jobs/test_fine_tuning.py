"""The fine-tuning names, driven by the unmodified `openai` client over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from live_api import LiveApi, live_api
from openai import OpenAI

from eda_service.jobstore import Status

EXTRA = {"base_draft": "small@1"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LiveApi]:
    with live_api(tmp_path) as running:
        yield running


@pytest.fixture
def client(api: LiveApi) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{api.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def test_a_job_through_its_life(client: OpenAI, api: LiveApi) -> None:
    job = client.fine_tuning.jobs.create(
        model="org/model",
        training_file="org/prompts",
        suffix="pair",
        seed=7,
        metadata={"team": "math"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": "auto"}},
        },
        extra_body=EXTRA,
    )
    assert (job.object, job.status, job.model, job.seed) == ("fine_tuning.job", "queued", "org/model", 7)
    assert (job.training_file, job.fine_tuned_model, job.metadata) == ("org/prompts", None, {"team": "math"})
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (3, 8)
    config = api.store.jobs.get(job.id).adapt_config()
    assert (config.train.epochs, config.train.batch_size, config.served_name) == (3, 8, "pair")
    claimed = api.store.leases.claim(max_running=1)
    assert claimed is not None
    assert client.fine_tuning.jobs.retrieve(job.id).status == "validating_files"
    api.store.jobs.record_progress(job.id, {"stage": "train", "updated_at": 100, "eta_s": 20})
    running = client.fine_tuning.jobs.retrieve(job.id)
    assert (running.status, running.estimated_finish) == ("running", 120)
    api.store.jobs.transition(job.id, Status.SUCCEEDED, event="job_succeeded", message="published")
    ended = client.fine_tuning.jobs.retrieve(job.id)
    assert (ended.status, ended.fine_tuned_model) == ("succeeded", "pair")
    assert ended.finished_at is not None


def test_lists_are_paged_by_the_client(client: OpenAI) -> None:
    made = [
        client.fine_tuning.jobs.create(model="org/model", training_file="self", seed=n, extra_body=EXTRA).id
        for n in range(7)
    ]
    first = client.fine_tuning.jobs.list(limit=3)
    assert [job.id for job in first.data] == made[:3:-1]
    assert [job.id for job in client.fine_tuning.jobs.list(limit=3)] == made[::-1]


def test_events_come_newest_first_and_cancel_cancels(client: OpenAI, api: LiveApi) -> None:
    job = client.fine_tuning.jobs.create(model="org/model", training_file="self", extra_body=EXTRA)
    for n in range(5):
        api.store.events.add(job.id, "step", f"step {n}", level="warning")
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert [event.message for event in events] == ["while queued", *(f"step {n}" for n in (4, 3, 2, 1, 0)), "queued"]
    assert {event.level for event in events} == {"info", "warn"}


def test_what_is_not_supported_is_refused_by_name(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(
            model="org/model", training_file="self", hyperparameters={"learning_rate_multiplier": 2.0}, extra_body=EXTRA
        )
    assert caught.value.param == "hyperparameters.learning_rate_multiplier"
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(
            model="org/model",
            training_file="self",
            integrations=[{"type": "wandb", "wandb": {"project": "p"}}],
            extra_body=EXTRA,
        )
    assert caught.value.param == "integrations"
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve("adapt_none")
