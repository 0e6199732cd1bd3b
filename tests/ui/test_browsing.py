"""What people do on the pages: watch, cancel, log in and out, move by keyboard, keep a report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import SERIOUS, Watched, told, violations
from playwright.sync_api import Browser, Page, expect
from ui_service import UiService, ui_service


@pytest.fixture
def page(browser: Browser, service: UiService) -> Iterator[Page]:
    with browser.new_context() as context:
        opened = context.new_page()
        watched = Watched(opened, service.url)
        yield opened
        assert watched.complaints == []


def progress(service: UiService, percent: float, stage: str = "train") -> None:
    step = round(percent * 4.88)
    heartbeat = {"stage": stage, "percent": percent, "step": step, "total_steps": 488, "eta_s": 30}
    now = int(time.time())
    service.store.jobs.record_progress(service.running, {**heartbeat, "stage_started_at": now - 90, "updated_at": now})


def test_the_queue_follows_its_jobs_without_a_reload(page: Page, service: UiService) -> None:
    page.goto(f"{service.url}/ui/jobs")
    page.evaluate("window.same = true")
    bar = page.locator(f"#row-{service.running} progress")
    for percent in (55.0, 72.5):
        progress(service, percent)
        expect(bar).to_have_attribute("value", str(percent), timeout=5000)
    assert page.evaluate("window.same")


def test_focus_stays_when_a_row_is_replaced(page: Page, service: UiService) -> None:
    page.goto(f"{service.url}/ui/jobs")
    link = page.locator(f"#row-{service.running} a")
    link.focus()
    progress(service, 80.0)
    expect(page.locator(f"#row-{service.running} progress")).to_have_attribute("value", "80.0", timeout=5000)
    expect(link).to_be_focused()


def test_a_jobs_page_shows_events_as_they_come(page: Page, service: UiService) -> None:
    page.goto(f"{service.url}/ui/jobs/{service.running}")
    service.store.events.add(service.running, "note", "<i>seen live</i>")
    expect(page.locator("#events li").first).to_contain_text("<i>seen live</i>", timeout=5000)
    progress(service, 90.0)
    expect(page.locator("#state")).to_contain_text("90%", timeout=5000)


def test_a_failed_job_is_retried_and_cancelled_by_buttons(page: Page, service: UiService) -> None:
    page.goto(f"{service.url}/ui/jobs/{service.failed}")
    expect(page.locator(".bad")).to_contain_text("non_finite_loss")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#state")).to_contain_text("queued")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#state .status")).to_have_text("cancelled")
    assert service.store.jobs.get(service.failed).status == "cancelled"


def test_the_keyboard_reaches_everything_in_order(page: Page, service: UiService) -> None:
    page.goto(f"{service.url}/ui/jobs")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    expect(page.get_by_text("Skip to content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="New adaptation")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#counts a").first).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_older_jobs_are_one_link_away(page: Page, service: UiService) -> None:
    page.goto(f"{service.url}/ui/jobs")
    first = page.locator("#rows tr").first.get_attribute("id")
    page.get_by_role("link", name="Older").click()
    expect(page.locator("#rows tr")).to_have_count(50)
    assert page.locator("#rows tr").first.get_attribute("id") != first
    page.get_by_role("link", name="Newest").click()
    expect(page.locator(f"#{first}")).to_be_visible()


def test_a_report_opens_from_a_file_without_a_network(
    browser: Browser, page: Page, service: UiService, tmp_path: Path, pictures: Path
) -> None:
    page.goto(f"{service.url}/ui/jobs/{service.finished}")
    with page.expect_download() as found:
        page.get_by_role("link", name="Report", exact=True).click()
    path = tmp_path / found.value.suggested_filename
    found.value.save_as(path)
    assert path.name == f"{service.finished}.html"
    with browser.new_context(offline=True) as context:
        opened = context.new_page()
        watched = Watched(opened, "file://")
        opened.goto(path.as_uri())
        opened.screenshot(path=pictures / "report-desktop.png", full_page=True)
        expect(opened.locator("figure svg[role=img]")).to_have_count(4)
        assert opened.evaluate("getComputedStyle(document.querySelector('.chart')).borderTopStyle") == "solid"
        bad = [each for each in violations(opened) if each["impact"] in SERIOUS]
        assert not bad, told(bad)
        assert (watched.complaints, watched.elsewhere) == ([], [])


def test_a_key_logs_in_and_out(browser: Browser, tmp_path: Path, pictures: Path) -> None:
    with ui_service(tmp_path / "home", num_jobs=5) as service, browser.new_context() as context:
        _, text = service.store.keys.create("local", "test", ["jobs:read", "infer"])
        page = context.new_page()
        watched = Watched(page, service.url)
        page.goto(f"{service.url}/ui/jobs/{service.finished}")
        expect(page.get_by_label("API key")).to_be_focused()
        page.screenshot(path=pictures / "login-desktop.png", full_page=True)
        bad = [each for each in violations(page) if each["impact"] in SERIOUS]
        assert not bad, told(bad)
        page.keyboard.type("eda_wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("unknown")
        page.get_by_label("API key").fill(text)
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{service.url}/ui/jobs/{service.finished}")
        assert page.get_by_role("button", name="Cancel").count() == 0
        assert page.evaluate("document.cookie") == ""
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ui")
        assert text.split("_")[-1] not in cookie["value"] + page.content()
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(f"{service.url}/ui/login")
        page.goto(f"{service.url}/ui/jobs")
        expect(page.get_by_label("API key")).to_be_visible()
        assert [each for each in watched.complaints if "401" not in each] == []


def test_the_playground_marks_where_two_texts_part(page: Page, service: UiService) -> None:
    page.goto(f"{service.url}/ui/playground")
    for left, right, marked, said in (
        (["She sold 48", " + 24 clips"], ["She sold 48 + 2", " dozen"], ["4", " dozen"], "differ from character 16"),
        (["one", " two"], ["one two"], [], "are the same, 7 characters"),
        (["one"], ["one", " two"], ["", " two"], "differ from character 4"),
    ):
        page.evaluate(
            """(texts) => {
              texts.forEach((pieces, place) => {
                const root = document.querySelector(["#left", "#right"][place] + " [data-text]");
                root.replaceChildren(...pieces.map((piece) => {
                  const span = document.createElement("span");
                  span.textContent = piece;
                  return span;
                }));
              });
              document.getElementById("question").dispatchEvent(new CustomEvent("answered", { detail: 2 }));
            }""",
            [left, right],
        )
        expect(page.locator("#same")).to_contain_text(said)
        assert page.locator("mark").all_text_contents() == marked
        texts = [page.locator(f"#{side} [data-text]").text_content() for side in ("left", "right")]
        assert texts == ["".join(left), "".join(right)]
