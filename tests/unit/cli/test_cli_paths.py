"""What is written for a model or a prompt file: no text stops a command with a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from eda_service.cli.arguments import as_path
from jobs.common import as_path as job_path


@pytest.mark.parametrize("text", ["x" * 5000, "a\0b", "~nobody-here/x", "itself", "\udcff", "org/model"])
def test_what_is_not_there_is_left_as_it_is(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "itself").symlink_to("itself")
    assert job_path(text) == text
    assert as_path(text) in (text, f"{tmp_path}/{text}")


def test_what_is_there_is_named_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").touch()
    assert as_path("rows.jsonl") == job_path("rows.jsonl") == as_path("./rows.jsonl") == f"{tmp_path}/rows.jsonl"
