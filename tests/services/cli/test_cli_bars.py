"""Bars of what a command does itself: amounts, rates and the time left in a terminal, silence elsewhere."""

from __future__ import annotations

import io
import re
import time

from command_line import Cli
from rich.console import Console

from eda_service.cli.bars import bars
from eda_service.progress import BYTES, no_progress

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def drawn(console_file: io.StringIO) -> list[str]:
    """Lines that were on the screen at any time, without colours."""
    return [line.strip() for line in re.split(r"[\r\n]", _CODES.sub("", console_file.getvalue())) if line.strip()]


def test_a_terminal_shows_amount_rate_and_time_left() -> None:
    screen = io.StringIO()
    with bars(Console(file=screen, force_terminal=True, width=120)) as on_progress:
        for done in (0, 20, 40):
            on_progress("download", done * 1e6, 98e6, BYTES)
            time.sleep(0.15)  # the screen is drawn ten times a second
        on_progress("convert", 0, None)
        for done in range(3):
            on_progress("answer", done, 64, "prompts")
            time.sleep(0.15)
    lines = drawn(screen)
    downloads = [line for line in lines if line.startswith("download")]
    assert any(re.search(r"40\.0 MB of 98\.0 MB, [\d.]+ MB/s, \d+s left", line) for line in downloads), downloads
    assert any(re.search(r"2 of 64 prompts, [\d.]+/s, \d+s left", line) for line in lines), lines[-5:]
    assert downloads[-1].endswith("98.0 MB of 98.0 MB")  # the next step says that it is done
    assert [line.split()[0] for line in lines[-3:]] == ["download", "convert", "answer"]


def test_elsewhere_nothing_is_written() -> None:
    pipe = io.StringIO()
    with bars(Console(file=pipe)) as on_progress:
        assert on_progress is no_progress
        on_progress("download", 1, 2, BYTES)
    assert pipe.getvalue() == ""


def test_json_of_a_command_with_bars_is_clean(eda: Cli) -> None:
    child = eda.start("models", "fetch", "smollm2-135m-nothing", "--json", env={"HF_HUB_OFFLINE": "1"})
    stdout, stderr = child.communicate(timeout=60)
    assert child.returncode == 2
    assert stdout == ""
    assert stderr.startswith('{"error": {"message": ')
    assert stderr.count("\n") == 1
