"""Ids of jobs that are started by hand have the form that the service gives; those of before still name their job."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

import pytest

from eda_service.config.job import AdaptConfig, TargetSpec
from eda_service.errors import NotFoundError
from eda_service.ids import new_job_id
from eda_service.storage.runs.run import RunDir
from jobs.common import open_run, parser

OF_BEFORE = "adapt_0193e0c5a1f73b9d0c42e88a51"
"""12 hex digits of milliseconds and 14 of chance."""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDA_HOME", str(tmp_path))


def arguments(*words: str) -> argparse.Namespace:
    return parser("a job").parse_args(words)


def test_a_job_by_hand_sorts_among_those_of_the_service() -> None:
    """Hex digits sort before every ULID: the directory of the newest job by hand came first of all."""
    before = new_job_id(time.time() - 1)
    run, _ = open_run(arguments("--target", "org/model"))
    assert re.fullmatch(r"adapt_[0-9A-HJKMNP-TV-Z]{26}", run.job_id)
    assert before < run.job_id < new_job_id(time.time() + 1)


def test_an_id_of_before_names_its_job() -> None:
    config = AdaptConfig(target=TargetSpec(model="org/model"), seed=5)
    with pytest.raises(NotFoundError, match=OF_BEFORE):
        open_run(arguments("--job-id", OF_BEFORE))
    RunDir.of_job(OF_BEFORE).create(config, origin="ray")
    run, found = open_run(arguments("--job-id", OF_BEFORE))
    assert (run.job_id, found) == (OF_BEFORE, config)
