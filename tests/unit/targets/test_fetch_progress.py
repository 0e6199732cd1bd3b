"""What pip says of its download, told to whoever fetches a model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eda_service.errors import TargetNotFoundError
from eda_service.progress import BYTES
from eda_service.targets import embedded

_PIP = """
import sys
assert sys.argv[1:] in ([], ["--progress-bar", "raw"]), sys.argv
print("Collecting a-package")
for done in (0, 30, 60):
    print(f"Progress {done} of 60", flush=True)
print("ERROR: the registry is closed", file=sys.stderr)
sys.exit(3)
"""


def test_progress_lines_are_told_and_errors_kept() -> None:
    told: list[tuple[str, float, float | None, str]] = []

    def on_progress(step: str, done: float, total: float | None, unit: str = "") -> None:
        told.append((step, done, total, unit))

    code, said = embedded._run_pip([sys.executable, "-c", _PIP], on_progress)
    assert (code, said) == (3, ["ERROR: the registry is closed"])
    assert told == [("download", 0, None, ""), *(("download", done, 60, BYTES) for done in (0, 30, 60))]


def test_a_wheel_that_does_not_come_is_said_with_pips_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(TargetNotFoundError, match=r"nothing-here==1 could not be downloaded: ERROR: .*registry"):
        embedded.download_wheel("nothing-here", "1", "0" * 64, tmp_path)
