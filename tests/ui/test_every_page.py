"""Every kind of page on a wide screen, on a phone and in the dark: nothing to complain about, pictures to look at."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import LOOKS, SERIOUS, Watched, told, violations
from playwright.sync_api import Browser
from ui_service import UiService

MOST_BYTES = 300_000
NAMES = [
    *("home", "jobs", "job-finished", "job-running", "job-failed", "job-queued", "logs"),
    *("new", "files", "draft-import", "drafts", "draft", "packs", "pack", "pack-export"),
    *("deployments", "deployment", "playground"),
    *("api", "api-part", "not-here"),
]


def test_no_page_is_forgotten(service: UiService) -> None:
    assert list(service.pages) == NAMES


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_fit_to_be_used(browser: Browser, service: UiService, pictures: Path, name: str, look: str) -> None:
    with browser.new_context(**LOOKS[look]) as context:
        page = context.new_page()
        watched = Watched(page, service.url)
        page.goto(service.url + service.pages[name])
        page.wait_for_timeout(1500)  # streams have put their first parts in place
        page.screenshot(path=pictures / f"{name}-{look}.png", full_page=True)
        for each in page.locator("details").all():
            each.evaluate("each => { each.open = true; }")
        found = violations(page)
        assert not [each for each in found if each["impact"] in SERIOUS], told(found)
        expected = ["404"] if name == "not-here" else []
        assert [each for each in watched.complaints if not any(word in each for word in expected)] == []
        assert watched.elsewhere == []
        assert 0 < watched.weight_bytes < MOST_BYTES
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "scrolls sideways"


@pytest.mark.parametrize("name", NAMES)
def test_no_page_scrolls_sideways_on_the_smallest_screen(browser: Browser, service: UiService, name: str) -> None:
    with browser.new_context(viewport={"width": 320, "height": 640}) as context:
        page = context.new_page()
        page.goto(service.url + service.pages[name])
        assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_axe_can_fail(browser: Browser, service: UiService) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{service.url}/ui/playground")
        page.evaluate("document.querySelector('label[for=prompt]').remove()")
        page.evaluate("document.querySelector('h1').style.color = '#eee'")
        found = {each["id"] for each in violations(page) if each["impact"] in SERIOUS}
        assert found >= {"label", "color-contrast"}
