"""Where the lines of `eda up` go: all of them to a file of the home, and to the terminal warnings of ours alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from eda_service.cli.service.service import _log_to_file


@pytest.fixture
def own_logging() -> Iterator[None]:
    """The root logger and Ray's, given back as they were; one of Ray's writes to the terminal, as Serve has it."""
    loggers = [logging.getLogger(name) for name in (None, "ray", "ray.serve")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    loggers[-1].handlers[:], loggers[-1].propagate = [logging.StreamHandler()], False
    loggers[-1].setLevel(logging.ERROR)
    yield
    for handler in loggers[0].handlers:
        handler.close()
    for each, (handlers, level, propagates) in zip(loggers, before, strict=True):
        each.handlers[:], each.propagate = handlers, propagates
        each.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.usefixtures("own_logging")
def test_the_terminal_is_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _log_to_file(tmp_path / "home")
    logging.getLogger("ray.serve").info("deploying")
    logging.getLogger("ray.serve").error("lost a replica")
    logging.getLogger("eda_service.raycluster.supervisor").info("all is well")
    logging.getLogger("eda_service.raycluster.supervisor").warning("the Ray head has ended; starting it again")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "the Ray head has ended; starting it again\n")
    assert path == tmp_path / "home" / "logs" / "up.log"
    kept = path.read_text(encoding="utf-8")
    for line in ("deploying", "lost a replica", "all is well", "the Ray head has ended"):
        assert line in kept
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
