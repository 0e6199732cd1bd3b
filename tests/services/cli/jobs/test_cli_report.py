"""`eda report` against the real service: one file, whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from command_line import Cli
from html_pages import parse
from job_files import finish_job
from live_api import BODY, LiveApi


@pytest.fixture
def finished(live: LiveApi) -> str:
    job = httpx.post(f"{live.url}/v1/adaptations", json={**BODY, "force": True}).json()
    return finish_job(live.store, live.home, live.store.jobs.get(job["id"])).id


def test_a_report_is_one_file(eda: Cli, live: LiveApi, finished: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "r.html"
    done = eda("report", finished, "--out", str(path), url=live.url)
    assert (done.exit_code, done.stdout.strip()) == (0, str(path))
    page = parse(path.read_text(encoding="utf-8"))
    assert len(page.all("figure")) == 4
    assert list(path.parent.iterdir()) == [path]
    again = eda("report", finished, "--out", str(path), "--json", url=live.url)
    assert json.loads(again.stdout) == {"id": finished, "path": str(path), "size_bytes": path.stat().st_size}


def test_it_is_named_after_the_job(
    eda: Cli, live: LiveApi, finished: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert eda("report", finished, url=live.url).exit_code == 0
    assert (tmp_path / f"{finished}.html").is_file()
    assert eda("report", finished, "--out", "-", url=live.url).stdout.startswith("<!doctype html>")


def test_what_cannot_be_is_refused(eda: Cli, live: LiveApi, finished: str, tmp_path: Path) -> None:
    waiting = httpx.post(f"{live.url}/v1/adaptations", json={**BODY, "force": True}).json()["id"]
    for job_id, words in ((waiting, "has no report"), ("adapt_none", "no job")):
        done = eda("report", job_id, "--out", str(tmp_path / "x.html"), url=live.url)
        assert done.exit_code == 2
        assert words in done.stderr
    assert not (tmp_path / "x.html").exists()
    done = eda("report", finished, "--out", str(tmp_path), url=live.url)
    assert (done.exit_code, "is a directory" in done.stderr) == (2, True)
    blocked = tmp_path / "file"
    blocked.write_text("x")
    done = eda("report", finished, "--out", str(blocked / "r.html"), url=live.url)
    assert (done.exit_code, "cannot be written" in done.stderr) == (2, True)
