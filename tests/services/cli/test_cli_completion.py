"""Completion is quick, which is shown by what it imports and by what it does not wait for, and not by a clock."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest
from command_line import Cli, job_body
from scripted_service import Answer, ScriptedService

from eda_service.cli import entry, main
from eda_service.cli.completion import completion
from eda_service.cli.completion.completion import Line, complete, keep_tree, read_tree, tree_path
from eda_service.cli.completion.offered import offered

LINE = {"_EDA_COMPLETE": "complete_bash", "COMP_WORDS": "eda jobs show ", "COMP_CWORD": "3"}
# As the installed script does it; what has been imported is said on standard error.
SCRIPT = """
import atexit, json, sys
before = set(sys.modules)
@atexit.register
def say():
    found = {name: getattr(module, "__file__", None) for name, module in sys.modules.items() if name not in before}
    print(json.dumps(found), file=sys.stderr)
from eda_service.cli.entry import main
sys.exit(main())
"""
OURS = {
    "eda_service",
    "eda_service.cli",
    "eda_service.cli.completion.completion",
    "eda_service.cli.defaults",
    "eda_service.cli.entry",
    "eda_service.cli.completion",
    "eda_service.cli.completion.offered",
    "eda_service.errors",
}
MAX_MODULES = 100


def test_what_a_shell_runs_imports_few_modules_and_none_of_another_package(eda: Cli, scripted: ScriptedService) -> None:
    keep_tree(eda.whole_env)
    scripted.on("GET", "/v1/jobs", Answer({"data": [job_body()], "has_more": False}))
    environment = {**eda.whole_env, **LINE, "EDA_URL": scripted.url}
    command = [sys.executable, "-c", SCRIPT]
    for _ in range(5):  # a busy machine may answer too late; what is imported then is the same
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        if done.stdout:
            break
    assert done.stdout == "adapt_1\n"
    imported = json.loads(done.stderr)
    assert {name for name in imported if name.startswith("eda_service")} == OURS
    elsewhere = {name for name, file in imported.items() if file and name not in OURS and "site-packages" in file}
    assert elsewhere == set()
    assert 40 < len(imported) < MAX_MODULES


def test_the_installed_script_starts_there() -> None:
    written = tomllib.loads((Path(main.__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert written["project"]["scripts"]["eda"] == f"{entry.__name__}:{entry.main.__name__}"


def test_an_answer_that_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        over = threading.Event()

        def trickle() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
                while not over.wait(0.02):  # each piece long before the limit of one read
                    connection.sendall(b" ")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            assert offered("job", url=url, environment={"EDA_CONFIG": "", "HOME": str(tmp_path)}) == []
            assert not over.is_set()
        finally:
            over.set()
            thread.join()


def test_a_press_of_a_key_reads_the_tree_of_before_until_the_new_one_is_kept(tmp_path: Path) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path)}
    before = {"form": completion.FORM, "stamp": "of before", "tree": {"commands": {"bygone": {}}, "options": {}}}
    tree_path(place).parent.mkdir()
    tree_path(place).write_text(json.dumps(before))
    line = Line((), "")
    assert [item.value for item in complete(read_tree(place), line, place)] == ["bygone"]

    keep_tree(place)
    names = {item.value for item in complete(read_tree(place), line, place)}
    assert {"adapt", "jobs"} <= names
    assert "bygone" not in names


def test_a_command_in_a_terminal_keeps_the_tree_and_one_in_a_script_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(main, "app", lambda *, prog_name: calls.append(prog_name))
    monkeypatch.setattr(completion, "keep_tree", lambda _: calls.append("kept"))
    monkeypatch.setattr(sys, "argv", ["eda", "jobs", "ls"])
    monkeypatch.delenv("_EDA_COMPLETE", raising=False)
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)  # noqa: B023  # called at once
        entry.main()
    assert calls == ["eda", "kept", "eda"]


OFFERED = {
    "job": ["jobs show", "jobs watch", "jobs wait", "jobs cancel", "jobs retry", "jobs rm", "jobs events", "jobs logs"],
    "adaptation": ["report"],
    "deployment": ["chat", "deployments show", "deployments update", "deployments rollback", "deployments rm"],
    "pack": [
        "export",
        "packs ls",
        "packs show",
        "packs compare",
        "packs pin",
        "packs deploy",
        "packs rm",
        "packs push",
    ],
    "draft": ["drafts show", "drafts check", "drafts rm"],
    "file": ["data rm"],
}


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in OFFERED.items() for path in paths])
def test_what_the_service_lists_is_offered_where_it_is_asked_for(eda: Cli, kind: str, path: str) -> None:
    node = read_tree(eda.whole_env)
    for name in path.split():
        node = node["commands"][name]
    assert node["arguments"][0]["kind"] == kind


@pytest.mark.parametrize("path", ["adapt", "measure", "deployments create", "models fetch"])
def test_targets_with_a_name_of_their_own_are_offered(eda: Cli, path: str) -> None:
    line = Line(tuple(path.split()), "smollm2-135m-ma")
    assert [item.value for item in complete(read_tree(eda.whole_env), line, eda.whole_env)] == ["smollm2-135m-math"]


@pytest.mark.parametrize("text", ["", "{", '{"form": 0, "stamp": "s", "tree": {"commands": {}}}', '{"tree": 1}'])
def test_a_tree_that_cannot_be_read_is_made_anew(tmp_path: Path, text: str) -> None:
    place = {"XDG_CACHE_HOME": str(tmp_path)}
    tree_path(place).parent.mkdir()
    tree_path(place).write_text(text)
    assert "adapt" in read_tree(place)["commands"]
    assert json.loads(tree_path(place).read_text())["form"] == completion.FORM
