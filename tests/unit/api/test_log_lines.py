"""Texts of requests cannot begin a log line of their own."""

from __future__ import annotations

import logging
import sys

import pytest

from api.log_lines import OneLine

FORGED = "x\n2026-01-01 00:00:00 INFO api: admin logged in\r\x1b[2K\u2028\x85"


def record(message: str, *arguments: object, with_error: bool = False) -> logging.LogRecord:
    error = sys.exc_info() if with_error else None
    return logging.LogRecord("api", logging.WARNING, "", 0, message, arguments, error)


def test_a_message_stays_on_one_line() -> None:
    line = OneLine("%(levelname)s %(message)s").format(record("webhook of %s", FORGED))
    assert line == r"WARNING webhook of x\n2026-01-01 00:00:00 INFO api: admin logged in\r\x1b[2K\u2028\x85"


def test_lines_of_a_traceback_are_marked() -> None:
    with pytest.raises(ValueError, match="admin") as caught:
        raise ValueError(FORGED)
    made = record("failed")
    made.exc_info = (caught.type, caught.value, caught.tb)
    first, *rest = OneLine("%(levelname)s %(message)s").format(made).split("\n")
    assert first == "WARNING failed"
    assert len(rest) > 3
    assert all(line.startswith("| ") for line in rest)
    assert not any(mark in "".join(rest) for mark in "\r\x1b\u2028\x85")
