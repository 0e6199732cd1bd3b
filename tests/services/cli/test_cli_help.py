"""Help and completion: each command shows an example, and each example is one that the command takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import JOB, Cli, job_body
from scripted_service import Answer, ScriptedService
from typer_tree import ALL, check_line

from eda_service.cli.completion import offered
from eda_service.cli.completion.completion import answer

WANTED_JOBS = {"ls", "show", "watch", "logs", "events", "cancel", "retry", "samples", "wait", "priority", "rm"}


def test_the_commands_are_there() -> None:
    assert {path[1] for path in ALL if len(path) == 2 and path[0] == "jobs"} == WANTED_JOBS
    assert {path[1] for path in ALL if len(path) == 2 and path[0] == "drafts"} == {
        "import",
        "ls",
        "show",
        "check",
        "rm",
    }
    assert {path[1] for path in ALL if len(path) == 2 and path[0] == "keys"} == {"create", "ls", "revoke", "open"}


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
    stdout, stderr = child.communicate(timeout=120)
    assert child.returncode == 0, stderr
    return stdout.split()


def test_completion_of_commands_and_choices(eda: Cli) -> None:
    assert set(complete(eda, "eda jobs ")) == WANTED_JOBS
    assert complete(eda, "eda jobs ls --status ca") == ["cancelling", "cancelled"]
    assert complete(eda, "eda adapt m --preset p") == ["paper", "paper_7b"]


def offers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shell: str, line: str, url: str) -> str:
    """What completion prints in this process, where a busy machine may take its time to answer."""
    monkeypatch.setattr(offered, "_TIMEOUT_S", 30.0)
    place = {"XDG_CACHE_HOME": str(tmp_path), "EDA_CONFIG": "", "HOME": str(tmp_path), "EDA_URL": url}
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_TYPER_COMPLETE_ARGS": line}
    found = answer(shell, {**place, **words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"})
    assert found is not None
    return found.text


def test_completion_of_ids_and_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scripted: ScriptedService
) -> None:
    hostile = {"id": "x$(touch /tmp/never)", "status": "queued"}
    jobs = [{**job_body(), "model": "org/`rm`"}, job_body(id="other_2"), hostile]
    scripted.on("GET", "/v1/jobs", Answer({"data": jobs, "has_more": False}))
    scripted.on("GET", "/v1/deployments", Answer({"data": [{"name": "math", "state": "ready"}], "has_more": False}))
    pack = {"name": "math", "latest": 2, "champion": 1, "versions": [{"version": 2}, {"version": 1}]}
    scripted.on("GET", "/v1/packs", Answer({"data": [pack], "has_more": False}))

    scripted.on("GET", "/v1/files", Answer({"data": [{"id": "file-1", "filename": "math.jsonl"}], "has_more": False}))

    def offered_by(shell: str, line: str) -> str:
        return offers(monkeypatch, tmp_path, shell, line, scripted.url)

    assert offered_by("complete_bash", "eda jobs show ad") == "adapt_1\n"
    assert offered_by("complete_bash", "eda jobs show ") == "adapt_1\nother_2\n"
    assert offered_by("complete_bash", "eda jobs logs -f o") == "other_2\n"
    assert offered_by("complete_zsh", "eda jobs show ad") == """_arguments '*: :(("adapt_1":"queued org/ rm"))'"""
    assert offered_by("complete_fish", "eda deployments show ") == "math\tready\n"
    assert offered_by("complete_bash", "eda export math@") == "math@2\nmath@1\n"
    assert offered_by("complete_bash", "eda packs compare math@1 math@") == "math@2\nmath@1\n"
    assert offered_by("complete_fish", "eda data rm ") == "file-1\tmath.jsonl\n"
    assert offered_by("complete_bash", "eda jobs logs --stage tr") == "train\n"
    assert "--watch\n" in offered_by("complete_bash", "eda adapt m --wa")
    assert offered_by("complete_bash", "eda jobs show --url http://127.0.0.1:9 ad") == ""
    assert scripted.seen("GET", JOB) == []


def test_completion_is_silent_without_a_service(eda: Cli) -> None:
    assert complete(eda, "eda jobs show ", "http://127.0.0.1:9") == []


def test_completion_can_be_shown_and_installed(eda: Cli) -> None:
    done = eda("--help")
    assert "--install-completion" in done.stdout
    assert "--show-completion" in done.stdout
