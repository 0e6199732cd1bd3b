"""Forty wrong inputs: each is answered at once with the field, its value, its limit or what there is, and exit code 2;
none with a traceback or with words of a library.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from command_line import Cli
from live_api import LiveApi
from typer.testing import Result

JOB = ("adapt", "org/model", "--base-draft", "small@1")
NOT_FOR_PEOPLE = ("Traceback", "Input should", "Value error", "ValidationError", "errors.pydantic.dev", "Extra inputs")


class Wrong(NamedTuple):
    """A line, with files `{dir}/...` and variables, and words that the answer has to have."""

    line: tuple[str, ...]
    words: tuple[str, ...]
    files: Mapping[str, str] = MappingProxyType({})
    variables: Mapping[str, str] = MappingProxyType({})


def on(*options: str) -> tuple[str, ...]:
    return (*JOB, *options)


WRONG = {
    # fields of the config
    "field": Wrong(on("--set", "train.epoch=3"), ("no field train.epoch; did you mean train.epochs?",)),
    "section": Wrong(on("--set", "trian.epochs=3"), ("no field trian; did you mean train",)),
    "nested field": Wrong(on("--set", "train.loss.unrol_steps=2"), ("did you mean train.loss.unroll_steps?",)),
    "field like nothing": Wrong(on("--set", "selfgen.qqq=1"), ("no field selfgen.qqq; there are",)),
    "below": Wrong(on("--set", "train.epochs=0"), ("train.epochs is 0; it must be at least 1",)),
    "above": Wrong(on("--set", "train.epochs=5000"), ("train.epochs is 5000; it must be at most 1000",)),
    "text for a number": Wrong(on("--set", "train.epochs=many"), ("train.epochs is text; it must be a whole number",)),
    "fraction for a whole": Wrong(on("--set", "train.epochs=1.5"), ("train.epochs is 1.5; it must be a whole number",)),
    "number for an object": Wrong(on("--set", "train=3"), ("train is 3; it must be an object",)),
    "null": Wrong(on("--set", "train.epochs=null"), ("train.epochs is null; it must be a whole number",)),
    "word": Wrong(on("--set", "train.method=loar"), ("train.method is 'loar'; it must be", "did you mean 'lora'?")),
    "no equals": Wrong(on("--set", "train.epochs"), ("--set 'train.epochs'", "section.field=value")),
    "through a value": Wrong(on("--set", "a=1", "--set", "a.b=2"), ("--set 'a.b=2' goes through a field",)),
    # names and paths
    "preset": Wrong(on("--preset", "deom"), ("'deom'", "did you mean 'demo'")),
    "target": Wrong(("adapt", "smollm2-135m-mth"), ("did you mean 'smollm2-135m-math'",)),
    "directory": Wrong(("adapt", "/no/such/model"), ("model is outside the allowed roots", "--allow DIRECTORY")),
    "draft": Wrong(("adapt", "org/model", "--base-draft", "smal@1"), ("'smal@1'", "did you mean 'small@1'")),
    "served name": Wrong(on("--name", "größe"), ("served_name", "is no name", "at most 96")),
    "data": Wrong(on("--data", "reasoning-gym:gsm"), ("use reasoning-gym:gsm_symbolic",)),
    "no target": Wrong(("adapt",), ("name a target", "--config")),
    # options
    "metadata": Wrong(on("--metadata", "team"), ("--metadata 'team'", "key=value")),
    "deadline": Wrong(on("--stage-deadline", "trian=5"), ("'trian=5'", "STAGE=SECONDS", "train")),
    "priority": Wrong(on("--priority", "200"), ("--priority", "it is 200; it must be at most 100")),
    "prompts": Wrong(on("--num-prompts", "few"), ("--num-prompts", "it is 'few'; it must be a whole number")),
    "option": Wrong(on("--prset", "demo"), ("No such option", "--prset", "--preset")),
    "command": Wrong(("adpat", "org/model"), ("No such command", "adpat", "adapt")),
    "status": Wrong(("jobs", "ls", "--status", "done"), ("--status", "done", "succeeded")),
    "days": Wrong(("gc", "--days", "-1"), ("--days", "it is -1; it must be at least 0")),
    # jobs
    "job": Wrong(("jobs", "show", "adapt_none"), ("no job 'adapt_none'", "`eda jobs ls` lists them")),
    "job id": Wrong(("jobs", "show", "../../etc"), ("'../../etc' is no job id", "eda jobs ls")),
    "no job": Wrong(("jobs", "cancel"), ("give a job id, or --last",)),
    "priority of a job": Wrong(("jobs", "priority", "--last", "high"), ("priority is 'high'", "0 to 100")),
    # files
    "unknown key": Wrong(("adapt", "--config", "{dir}/a.yaml"), ("no field datset; did you mean dataset",),
                         {"a.yaml": "model: org/model\nbase_draft: small@1\ndatset: {source: self}"}),
    "key twice": Wrong(("adapt", "--config", "{dir}/a.yaml"), ("a.yaml", "model stands twice"),
                       {"a.yaml": "model: a\nmodel: b"}),
    "no such file": Wrong(("adapt", "--config", "{dir}/none.yaml"), ("none.yaml", "No such file")),
    "no YAML": Wrong(("adapt", "--config", "{dir}/a.yaml"), ("a.yaml", "no YAML", "correct the file"),
                     {"a.yaml": "a: ["}),
    # surroundings
    "url": Wrong(("jobs", "ls", "--url", "ftp://127.0.0.1"), ("ftp://127.0.0.1",)),
    "variable": Wrong(("jobs", "ls"), ("EDA_REQUEST_TIMEOUT_S is 'soon': it must be a number", "unset it"),
                      variables={"EDA_REQUEST_TIMEOUT_S": "soon"}),
    "defaults": Wrong(("jobs", "ls"), ("defaults.toml", "no field jobs.ls.limt; did you mean jobs.ls.limit?"),
                      {"defaults.toml": "[jobs.ls]\nlimt = 3"}, {"EDA_CONFIG": "{dir}/defaults.toml"}),
    "defaults that are no TOML": Wrong(("jobs", "ls"), ("defaults.toml", "TOML", "correct it"),
                                       {"defaults.toml": "url = "}, {"EDA_CONFIG": "{dir}/defaults.toml"}),
}  # fmt: skip


def test_there_are_forty() -> None:
    assert len(WRONG) >= 40


@pytest.mark.parametrize("name", WRONG)
def test_it_is_answered(eda: Cli, live: LiveApi, tmp_path: Path, name: str) -> None:
    wrong = WRONG[name]
    for file, text in wrong.files.items():
        (tmp_path / file).write_text(text, encoding="utf-8")
    before = len(live.store.jobs.page(limit=100)[0])
    line = [word.replace("{dir}", str(tmp_path)) for word in wrong.line]
    variables = {key: value.replace("{dir}", str(tmp_path)) for key, value in wrong.variables.items()}
    done = eda(*line, url=live.url, env={"COLUMNS": "300", **variables})
    check(done, wrong.words)
    assert len(live.store.jobs.page(limit=100)[0]) == before


def check(done: Result, words: tuple[str, ...]) -> None:
    assert done.exit_code == 2, done.output
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert [word for word in NOT_FOR_PEOPLE if word in done.output] == []
    assert done.stdout == ""


@pytest.mark.parametrize("line", [("jobs", "show"), ("--set",), ("adapt", "--config", "/none.yaml")])
def test_a_process_of_its_own_ends_the_same_way(eda: Cli, line: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "eda_service.cli.entry", *line]
    done = subprocess.run(command, env=eda.whole_env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr
    assert "Traceback" not in done.stderr
