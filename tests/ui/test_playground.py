"""The playground with a real model: SmolLM2 with the committed math pack and without it, served by this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import LOOKS, SERIOUS, Watched, told, violations
from live_endpoint import LiveEndpoint, live_endpoint, make_pair
from playwright.sync_api import Browser, expect
from ui_service import ADAPTED, PLAIN, SERVED, UiService

from benchmarks.workloads import DOMAINS, load_pair
from eda_service.raycluster.serve_plan import group_key, route_prefix_of

QUESTION = "Natalia sold 48 clips in April and half as many in May. How many clips did she sell altogether?"
_ANSWER_MS = 120_000


@pytest.fixture(scope="module")
def endpoint(serve_port: int, service: UiService) -> Iterator[LiveEndpoint]:
    pair = load_pair(DOMAINS[0], Path("not-here"), 1)
    assert pair is not None
    engines = {ADAPTED: pair.engine("adapted"), PLAIN: pair.engine("base")}
    served = [
        make_pair(name, pair.target, engine, uid=service.store.deployments.get(name).uid)
        for name, engine in engines.items()
    ]
    with live_endpoint(served, port=serve_port, prefix=route_prefix_of(group_key(SERVED))) as running:
        yield running


def answer_of(endpoint: LiveEndpoint, name: str) -> str:
    """The same question asked without the pages."""
    body = {"model": name, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 40}
    url = f"{endpoint.url}{route_prefix_of(group_key(SERVED))}/v1/chat/completions"
    return str(httpx.post(url, json=body, timeout=60).json()["choices"][0]["message"]["content"])


def test_two_answers_with_their_draft_tokens_marked(
    browser: Browser, service: UiService, endpoint: LiveEndpoint, pictures: Path
) -> None:
    with browser.new_context(**LOOKS["desktop"]) as context:
        page = context.new_page()
        watched = Watched(page, service.url)
        page.goto(f"{service.url}/ui/playground?left={ADAPTED}&right={PLAIN}")
        page.get_by_label("Most tokens").fill("40")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator("#told")).to_contain_text(f"{PLAIN}: ", timeout=_ANSWER_MS)
        lengths = {}
        for side, name in (("left", ADAPTED), ("right", PLAIN)):
            pane = page.locator(f"#{side}")
            assert pane.locator("[data-text]").text_content() == answer_of(endpoint, name)
            lengths[name] = float(pane.locator("[data-fact=length]").text_content() or "0")
            accepted, _, proposed = (pane.locator("[data-fact=accepted]").text_content() or "").partition(" of ")
            assert 0 <= int(accepted) <= int(proposed)
            assert bool(int(accepted)) == bool(pane.locator(".draft").count())
            assert pane.locator("[data-text]").get_attribute("aria-busy") == "false"
        assert lengths[ADAPTED] > 1.3
        assert lengths[ADAPTED] > lengths[PLAIN], lengths
        assert page.locator("#left [data-model]").text_content() == f"{ADAPTED}: {ADAPTED}@2"
        assert page.locator("#right [data-model]").text_content() == f"{PLAIN}: no pack"
        num_characters = len(answer_of(endpoint, ADAPTED))
        expect(page.locator("#same")).to_have_text(f"Both texts are the same, {num_characters} characters.")
        assert page.locator("mark").count() == 0
        page.screenshot(path=pictures / "playground-answered-desktop.png", full_page=True)
        bad = [each for each in violations(page) if each["impact"] in SERIOUS]
        assert not bad, told(bad)
        assert (watched.complaints, watched.elsewhere) == ([], [])
    for look in ("phone", "dark"):
        with browser.new_context(**LOOKS[look]) as context:
            page = context.new_page()
            page.goto(f"{service.url}/ui/playground?left={ADAPTED}&right={PLAIN}")
            page.get_by_label("Most tokens").fill("24")
            page.get_by_role("button", name="Ask").click()
            expect(page.locator("#told")).to_contain_text(f"{PLAIN}: ", timeout=_ANSWER_MS)
            page.screenshot(path=pictures / f"playground-answered-{look}.png", full_page=True)


def test_stopping_frees_the_slot(browser: Browser, service: UiService, endpoint: LiveEndpoint) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{service.url}/ui/playground?left={ADAPTED}&right=")
        page.get_by_label("and beside it").select_option("")
        page.get_by_label("Most tokens").fill("900")
        page.get_by_label("Question").fill("Write a very long story about numbers.")
        page.get_by_label("Temperature").fill("1.5")
        page.get_by_role("button", name="Ask").click()
        expect(page.locator("#left [data-text] span").first).to_be_attached(timeout=_ANSWER_MS)
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#told")).to_contain_text("stopped")
        endpoint.wait_idle(ADAPTED)


def test_a_refusal_is_said(browser: Browser, service: UiService, endpoint: LiveEndpoint) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{service.url}/ui/playground?left={ADAPTED}")
        page.get_by_label("Question").fill("x " * 9000)
        page.get_by_role("button", name="Ask").click()
        expect(page.locator("#told")).to_contain_text("shorten it", timeout=_ANSWER_MS)
        expect(page.locator("#same")).to_be_hidden()


def test_the_deployments_page_shows_what_was_asked(
    browser: Browser, service: UiService, endpoint: LiveEndpoint
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{service.url}/ui/deployments/{ADAPTED}")
        answer_of(endpoint, ADAPTED)
        total = page.locator("#served div", has_text="Tokens so far").locator("dd")
        expect(total).not_to_have_text("0", timeout=15_000)
