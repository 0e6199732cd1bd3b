"""From a file on somebody's computer to an answer of what was made of it, by clicks alone.

The pages, the service and its database are real. The cluster is played by the test: it finishes the job as a real one
was finished, and answers in the place of Serve.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import LOOKS, SERIOUS, Watched, told, violations
from job_files import finish_job
from playwright.sync_api import Browser, Page, expect
from scripted_service import Answer, ScriptedService, scripted_service
from ui_service import SERVED, TARGET, UiService, ui_service

from eda_service.raycluster.serve_plan import group_key, route_prefix_of

_CHUNK = {
    "object": "chat.completion.chunk",
    "choices": [{"index": 0, "spans": [{"text": "72 clips", "accepted": False}]}],
}


@pytest.fixture(scope="module")
def serve() -> Iterator[ScriptedService]:
    with scripted_service() as opened:
        events = f"data: {json.dumps(_CHUNK)}\n\ndata: [DONE]\n\n".encode()
        answer = Answer(headers={"content-type": "text/event-stream"}, chunks=(events,))
        opened.on("POST", f"{route_prefix_of(group_key(SERVED))}/v1/chat/completions", answer)
        yield opened


@pytest.fixture(scope="module")
def fresh(serve: ScriptedService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UiService]:
    """A service with hardly anything in it."""
    home = tmp_path_factory.mktemp("fresh") / "home"
    with ui_service(home, num_jobs=3, serve_port=httpx.URL(serve.url).port) as running:
        yield running


def fit(page: Page, watched: Watched, picture: Path) -> None:
    page.screenshot(path=picture, full_page=True)
    bad = [each for each in violations(page) if each["impact"] in SERIOUS]
    assert not bad, told(bad)
    assert (watched.complaints, watched.elsewhere) == ([], [])
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"


@pytest.mark.parametrize("look", ["desktop", "phone"])
def test_from_an_upload_to_an_answer_by_clicks_alone(
    browser: Browser, fresh: UiService, pictures: Path, tmp_path: Path, look: str
) -> None:
    rows = tmp_path / f"clips-{look}.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{n} clips and {look}?"}) + "\n" for n in range(100)))
    name = f"clips-{look}"
    with browser.new_context(**LOOKS[look]) as context:
        page = context.new_page()
        watched = Watched(page, fresh.url)
        page.goto(f"{fresh.url}/ui/jobs")
        page.get_by_role("link", name="New adaptation").click()
        page.get_by_label("Target", exact=True).fill(TARGET)
        page.get_by_label("Name at the endpoint").fill(name)
        page.get_by_label("A file from this computer").set_input_files(rows)
        page.get_by_role("button", name="See what it takes").click()
        expect(page.get_by_role("heading", name="What it takes")).to_be_visible()
        expect(page.locator("main")).to_contain_text(f"{rows.name}, 100 of them")
        fit(page, watched, pictures / f"new-check-{look}.png")
        page.get_by_role("button", name="Queue it").click()
        expect(page.locator("#queue")).to_contain_text("that wait")
        (job,) = [each for each in fresh.store.jobs.page()[0] if each.adapt_config().served_name == name]
        assert page.url == f"{fresh.url}/ui/jobs/{job.id}"
        finish_job(fresh.store, fresh.home, job)
        page.locator("#state").get_by_role("link", name=f"{name}@1").click(timeout=20_000)
        fit(page, watched, pictures / f"packs-actions-{look}.png")
        page.get_by_role("button", name=f"Deploy {name}", exact=True).click()
        expect(page.get_by_role("heading", name=name)).to_be_visible()
        page.get_by_role("link", name="Try it").click()
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator("#left [data-text]")).to_contain_text("72 clips")
        assert (watched.complaints, watched.elsewhere) == ([], [])
    deployed = fresh.store.deployments.get(name)
    assert (deployed.pack, deployed.target["model"]) == (f"{name}@1", TARGET)


def test_a_form_that_is_refused_keeps_what_was_typed(browser: Browser, fresh: UiService, pictures: Path) -> None:
    with browser.new_context(**LOOKS["phone"]) as context:
        page = context.new_page()
        watched = Watched(page, fresh.url)
        page.goto(f"{fresh.url}/ui/new")
        page.get_by_label("Target", exact=True).fill(TARGET)
        page.get_by_label("Pasted").fill("only one prompt")
        page.get_by_role("button", name="See what it takes").click()
        expect(page.get_by_role("alert")).to_contain_text("distinct prompts")
        expect(page.get_by_label("Target", exact=True)).to_have_value(TARGET)
        expect(page.get_by_label("Pasted")).to_have_value("only one prompt")
        page.screenshot(path=pictures / "new-refused-phone.png", full_page=True)
        assert [each for each in watched.complaints if "400" not in each] == []
