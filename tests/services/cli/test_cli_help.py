"""Help and completion: each command shows an example, and each example is one that the command takes."""

from __future__ import annotations

import pytest
from command_line import JOB, ROOT, Cli, job_body
from scripted_service import Answer, ScriptedService
from typer_tree import ALL, check_line

WANTED_JOBS = {"ls", "show", "watch", "logs", "events", "cancel", "retry", "samples", "wait", "priority"}


def test_the_commands_are_there() -> None:
    assert {path[1] for path in ALL if len(path) == 2 and path[0] == "jobs"} == WANTED_JOBS
    assert {path[1] for path in ALL if len(path) == 2 and path[0] == "drafts"} == {
        "import",
        "ls",
        "show",
        "check",
        "rm",
    }
    assert {path[1] for path in ALL if len(path) == 2 and path[0] == "keys"} == {"create", "ls", "revoke"}


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(("eda", *path)))
def test_help_shows_an_example_that_parses(eda: Cli, path: tuple[str, ...]) -> None:
    done = eda(*path, "--help", env={"COLUMNS": "200"})
    assert done.exit_code == 0
    head, found, tail = done.stdout.partition("Example")
    assert found, head
    examples = [line.strip() for line in tail.splitlines() if line.strip().startswith("eda ")]
    assert examples
    assert all(line.startswith(" ".join(("eda", *path)).rstrip()) for line in examples)
    for line in examples:
        check_line(line)


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(("eda", *path)))
def test_every_command_that_shows_something_has_json(path: tuple[str, ...]) -> None:
    if hasattr(ALL[path], "commands") or path in {("up",), ("join",), ("demo",)}:
        return
    assert "--json" in {name for parameter in ALL[path].params for name in parameter.opts}


def complete(eda: Cli, line: str, url: str = "") -> list[str]:
    """What a bash shell would offer at the end of a line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "EDA_URL": url}
    child = eda.start(env={"_EDA_COMPLETE": "complete_bash", **words})
    stdout, stderr = child.communicate(timeout=30)
    assert child.returncode == 0, stderr
    return stdout.split()


def test_completion_of_commands_choices_and_ids(eda: Cli, scripted: ScriptedService) -> None:
    assert set(complete(eda, "eda jobs ")) == WANTED_JOBS
    assert complete(eda, "eda jobs ls --status ca") == ["cancelling", "cancelled"]
    assert complete(eda, "eda adapt m --preset p") == ["paper", "paper_7b"]
    scripted.on("GET", ROOT, Answer({"data": [job_body(), job_body(id="other_2")], "has_more": False}))
    assert complete(eda, "eda jobs show ad", scripted.url) == ["adapt_1"]
    assert scripted.seen("GET", JOB) == []


def test_completion_is_silent_without_a_service(eda: Cli) -> None:
    assert complete(eda, "eda jobs show ", "http://127.0.0.1:9") == []


def test_completion_can_be_shown_and_installed(eda: Cli) -> None:
    done = eda("--help")
    assert "--install-completion" in done.stdout
    assert "--show-completion" in done.stdout
