"""A pack for another engine by clicks alone: choose, wait, copy the command, download."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Watched
from playwright.sync_api import Browser, Page, expect
from ui_service import EXPORTED, UiService

from tests.exported_packs import COMMAND, FILES, finish_export


@pytest.fixture
def page(browser: Browser, service: UiService) -> Iterator[Page]:
    with browser.new_context(permissions=["clipboard-read", "clipboard-write"]) as context:
        opened = context.new_page()
        watched = Watched(opened, service.url)
        yield opened
        assert watched.complaints == []


def test_from_a_pack_to_its_files_for_another_engine(
    page: Page, service: UiService, tmp_path: Path, pictures: Path
) -> None:
    page.goto(f"{service.url}/ui/packs/{EXPORTED}")
    page.get_by_role("link", name=f"Export {EXPORTED}").click()
    refused = page.get_by_label("SGLang, plugin")
    expect(refused).to_be_disabled()
    expect(page.locator("#says-sglang-plugin")).to_contain_text("Not possible: this draft of kind eagle3")
    page.get_by_label("vLLM, dense").check()
    page.get_by_label("Draft tokens per round").fill("5")
    page.get_by_label("File layout of the dense form").select_option("speculators")
    page.get_by_role("button", name="Make the export").click()
    page.wait_for_url("**/export?version=1#made")
    (job,) = (each for each in service.store.jobs.page()[0] if each.kind == "export" and not each.is_terminal)
    card = page.locator("section", has=page.locator(f"#made-{job.id}")).last
    expect(card).to_contain_text("queued")
    page.screenshot(path=pictures / "exporting.png", full_page=True)
    finish_export(service.store, service.home, job)
    expect(card).to_contain_text("succeeded", timeout=20_000)
    expect(card.locator("pre")).to_have_text(COMMAND)
    card.get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == COMMAND
    with page.expect_download() as started:
        card.get_by_role("link", name=f"Download {EXPORTED}@1 for vLLM, dense").click()
    started.value.save_as(tmp_path / "export.tar")
    assert started.value.suggested_filename == f"{EXPORTED}-1-vllm-dense.tar"
    with tarfile.open(tmp_path / "export.tar") as archive:
        assert {Path(name).name for name in archive.getnames()} == set(FILES)
    task = job.task()
    assert (task.dialect, task.num_draft_tokens) == ("speculators", 5)  # type: ignore[union-attr]
