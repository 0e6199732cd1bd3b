"""`eda adapt --config FILE`: what is sent, with flags above it, and files that hold no job."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import ROOT, Cli, job_body
from scripted_service import Answer, ScriptedService

YAML = """
model: ./tuned            # beside this file
preset: demo
priority: 20
dataset: {source: ./prompts.jsonl, num_prompts: 320}
metadata: {team: math}
config:
  train: {epochs: 4, learning_rate: 4e-5}
"""


def test_flags_win_over_the_file(eda: Cli, scripted: ScriptedService, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(YAML)
    scripted.on("POST", ROOT, Answer(job_body(), status=201))
    flags = ("--preset", "paper", "--num-prompts", "64", "--set", "train.epochs=2", "--metadata", "run=7")
    done = eda("adapt", "--config", str(path), *flags, "--json", url=scripted.url)
    assert done.exit_code == 0, done.stderr
    assert scripted.seen("POST", ROOT)[0].body == {
        "model": str(tmp_path / "tuned"),
        "preset": "paper",
        "priority": 20,
        "force": False,
        "dataset": {"source": str(tmp_path / "prompts.jsonl"), "num_prompts": 64},
        "metadata": {"team": "math", "run": "7"},
        "config": {"train": {"epochs": 2, "learning_rate": 4e-5}},
    }


def test_json_is_taken_and_the_target_of_the_line_wins(eda: Cli, scripted: ScriptedService, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text('{"model": "org/model", "seed": 3}')
    scripted.on("POST", ROOT, Answer(job_body(), status=201))
    assert eda("adapt", "org/other", "--config", str(path), "--json", url=scripted.url).exit_code == 0
    body = scripted.seen("POST", ROOT)[0].body
    assert (body["model"], body["seed"], body["priority"]) == ("org/other", 3, 50)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("job.yaml", "model: a\nmodel: b\n", "line 1: model stands twice"),
        ("job.yaml", "a: &x [1]\nb: *x\n", "line 2 refers to another place"),
        ("job.yaml", "model: [", "it is no YAML"),
        ("job.yaml", "- model", "it holds no fields"),
        ("job.yaml", "1: model", "the key 1 is no text"),
        ("job.yaml", "metadata: {day: 2026-01-02}", "it holds a date; put it in quotes"),
        ("job.yaml", "min_gain: .nan", "not JSON compliant"),
        ("job.yaml", "a: !!python/object/apply:os.system ['true']", "it is no YAML"),
        ("job.json", '{"model": "a", "model": "b"}', "it has a key twice"),
        ("job.json", "{", "Expecting"),
        ("none.yaml", None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_holds_no_job(eda: Cli, tmp_path: Path, name: str, text: str | None, told: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    done = eda("adapt", "--config", str(path), url="http://127.0.0.1:9")
    assert (done.exit_code, told in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert str(path) in done.stderr
