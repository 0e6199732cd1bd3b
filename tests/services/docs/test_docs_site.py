"""The documentation site: builds without a warning, needs no network, and its references leave nothing out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from doc_blocks import DOCS, REPOSITORY
from typer_tree import ALL

from api.settings import Settings
from eda_service.config.deployment import DriftConfig, VllmConfig
from eda_service.config.job import AdaptConfig

_FETCHED = re.compile(r'<(?:script|img|iframe|source|link(?![^>]*canonical))[^>]*?(?:src|href)="((?:https?:)?//[^"]*)"')
_CONFIG = """
site_name: small
strict: true
theme: {{name: mkdocs}}
hooks: [{hooks}/outside_files.py]
validation: {{links: {{anchors: warn, not_found: warn}}}}
not_in_nav: '**'
"""


def build(directory: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """MkDocs over the `mkdocs.yml` in a directory, strictly."""
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    done = build(REPOSITORY, directory)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    found = {(page.name, each) for page in pages for each in _FETCHED.findall(page.read_text(encoding="utf-8"))}
    assert found == set()
    assert _FETCHED.findall('<script async src="https://cdn.example/x.js">') == ["https://cdn.example/x.js"]


def test_a_page_that_was_moved_is_found_at_its_old_address(site: Path) -> None:
    moved = {"serving": "reference/serving", "tutorial": "tutorial/own-lora", "security": "explanation/security"}
    for old, new in moved.items():
        target = re.search(r'url=([^"]+)"', (site / f"{old}.html").read_text(encoding="utf-8"))
        assert target is not None
        assert target[1] == f"{new}.html"
        assert (site / target[1]).is_file()
    unsorted = {page.stem for page in DOCS.glob("*.md")}
    assert unsorted == {"index"}, "a page lies in tutorial, howto, reference or explanation"


def test_the_configuration_has_every_field(site: Path) -> None:
    def names(schema: dict[str, object]) -> set[str]:
        models = [schema, *schema.get("$defs", {}).values()]  # type: ignore[attr-defined]
        return {name for each in models for name in each.get("properties", {})}

    shown = text_of(site / "reference" / "config.html")
    wanted = set().union(*(names(each.model_json_schema()) for each in (AdaptConfig, DriftConfig, VllmConfig)))
    assert {name for name in wanted if not re.search(rf"\b{name}\b", shown)} == set()
    assert "train.loss.unroll_steps" in shown
    assert "at least 1, at most 8" in shown
    settings = text_of(site / "reference" / "settings.html")
    assert {name for name in Settings.model_fields if f"EDA_{name.upper()}" not in settings} == set()


def test_the_command_line_has_every_command_and_option(site: Path) -> None:
    shown = text_of(site / "reference" / "cli.html")
    for path, command in ALL.items():
        assert " ".join(("eda", *path)) in shown
        for parameter in command.params:
            name = max(parameter.opts, key=len)
            assert name in shown or not name.startswith("-") or parameter.hidden, (path, name)


def test_the_api_has_every_operation(site: Path) -> None:
    paths = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))["paths"]
    shown = text_of(site / "reference" / "api.html")
    wanted = {f"{method.upper()} {path}" for path, operations in paths.items() for method in operations}
    assert {each for each in wanted if each not in shown} == set()


def test_files_outside_come_along_and_dead_links_are_found(tmp_path: Path) -> None:
    pages = {
        "docs/index.md": "# Top\n\n[a](../notes), [b](../data/x.json), [c](../notes/README.md#part)\n",
        "notes/README.md": "# Notes\n\n## Part\n\n[d](../docs/index.md#top), [e](../LICENSE)\n",
        "data/x.json": "{}",
        "LICENSE": "free",
        "benchmarks/README.md": "# B\n",
        "CHANGELOG.md": "# C\n",
        "mkdocs.yml": _CONFIG.format(hooks=DOCS / "hooks"),
    }
    for path, text in pages.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    notes = (tmp_path / "site" / "notes" / "index.html").read_text(encoding="utf-8")
    assert re.search(r'href="\.\./(\./)?#top"', notes)
    assert (tmp_path / "site" / "data" / "x.json").read_text() == "{}"
    assert (tmp_path / "site" / "LICENSE").read_text() == "free"
    for wrong in ("../notes/README.md#nowhere", "../nothing.md", "../data/y.json"):
        (tmp_path / "docs" / "index.md").write_text(f"# Top\n\n[x]({wrong})\n", encoding="utf-8")
        assert build(tmp_path, tmp_path / "site").returncode != 0, wrong
