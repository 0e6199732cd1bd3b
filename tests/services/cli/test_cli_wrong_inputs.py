"""Wrong input at the command line: exit code 2, one message with the next step, no traceback, and nothing queued."""

from __future__ import annotations

import json
import sys

import pytest
from command_line import Cli
from live_api import LiveApi


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("smollm2-135m-mth",), ("did you mean 'smollm2-135m-math'", "param: model")),
        (("/no/such/directory",), ("param: model",)),
        (("org/model", "--base-draft", "smal@1"), ("did you mean 'small@1'", "param: base_draft")),
        (("smollm2-135m-math", "--base-draft", "small@1"), ("draft 32, target 576", "param: base_draft")),
        (("org/model", "--preset", "deom"), ("did you mean 'demo'", "param: preset")),
        (("org/model", "--data", "reasoning-gym:gsm"), ("use reasoning-gym:gsm_symbolic", "param: dataset.source")),
        (("org/model", "--eval-data", "reasoning-gym:gsm"), ("param: eval_dataset.source",)),
        (
            ("org/model", "--set", "train.epoch=3"),
            ("no field train.epoch; did you mean train.epochs?", "param: train.epoch"),
        ),
        (("org/model", "--set", "train.epochs=0"), ("train.epochs is 0; it must be at least 1", "param: train.epochs")),
        (("org/model", "--set", "selection.num_reference_prompts=500"), ("128 general prompts", "lower it")),
        (("org/model", "--set", 'track.to=["wandb"]'), ("install the extra", "set `force`", "param: track.to")),
        (
            ("org/model", "--data", "self", "--num-prompts", "1000000", "--set", "selfgen.max_prompt_tokens=131072"),
            ("of disk", "is free", "lower dataset.num_prompts", "force"),
        ),
    ],
)
def test_it_is_refused_with_exit_code_2(
    eda: Cli, live: LiveApi, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    before = len(live.store.jobs.page(limit=100)[0])
    base = () if "--base-draft" in options else ("--base-draft", "small@1")
    done = eda("adapt", *options, *base, url=live.url)
    assert done.exit_code == 2, done.output
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    assert "Traceback" not in done.output
    assert len(live.store.jobs.page(limit=100)[0]) == before


def test_adapt_prints_what_the_job_needs_before_it_is_queued(eda: Cli, live: LiveApi) -> None:
    options = ("adapt", "org/model", "--base-draft", "small@1", "--force", "--data", "self")
    done = eda(*options, url=live.url)
    assert done.exit_code == 0, done.stderr
    assert "disk " in done.stderr
    assert "measure 16 of the prompts that the target wrote itself" in done.stderr
    assert "disk " not in done.stdout
    as_json = eda(*options, "--json", url=live.url)
    assert (as_json.stderr, json.loads(as_json.stdout)["status"]) == ("", "queued")


def test_data_of_one_s_own_is_evaluated_on_itself_or_on_eval_data(eda: Cli, live: LiveApi) -> None:
    mine, held = live.home.parent / "mine.jsonl", live.home.parent / "held.jsonl"
    for path in (mine, held):
        path.write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(400)))
    options = ("adapt", "org/model", "--base-draft", "small@1", "--force", "--preset", "demo", "--data", str(mine))
    split = eda(*options, "--dry-run", url=live.url)
    assert "measure 16 prompts split off mine.jsonl" in split.stdout
    apart = eda(*options, "--eval-data", str(held), "--dry-run", url=live.url)
    assert "measure 16 prompts of held.jsonl" in apart.stdout


@pytest.mark.parametrize(
    ("words", "param", "said"),
    [
        (("jobs", "ls", "--limit", "0", "--json"), "limit", "it is 0; it must be at least 1"),
        (("jobs", "ls", "--json", "--limit", "0"), "limit", "it is 0; it must be at least 1"),
        (("jobs", "ls", "--limits", "3", "--json"), None, "No such option: --limits"),
        (("packs", "rm", "--json"), "pack", "Missing argument"),
        (("pack", "--json"), None, "No such command 'pack'"),
    ],
)
def test_a_wrong_option_is_json_too_where_that_is_asked_for(
    eda: Cli, words: tuple[str, ...], param: str | None, said: str
) -> None:
    done = eda(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["param"], error["request_id"]) == ("invalid_request", param, None)
    assert said in error["message"]
    plain = eda(*(each for each in words if each != "--json"))
    assert plain.exit_code == 2
    assert "Usage: eda" in plain.stderr
