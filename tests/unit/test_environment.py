"""Variables have one home: what code and docs name is a field there, or one of the few that are no setting."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from api.settings import Settings
from eda_service.environment import Environment
from eda_service.errors import InputError
from eda_service.storage.inputs.allowed import current_roots
from eda_service.storage.runs.run import current_attempt, home_dir

ROOT = Path(__file__).parents[2]
OTHERS = {
    "EDA_URL",  # options of the command line, which Typer reads
    "EDA_WEBHOOK_SECRET",
    "EDA_PROCESS_MARK",  # marks of processes, no settings
    "EDA_VLLM_DIES_WITH_PARENT",
}


def test_every_variable_that_is_named_is_declared_and_every_one_is_read_there_alone() -> None:
    declared = {f"EDA_{name.upper()}" for model in (Settings, Environment) for name in model.model_fields}
    files = [
        *ROOT.glob("docs/**/*.md"),
        *(p for d in ("eda_service", "api", "jobs") for p in ROOT.glob(f"{d}/**/*.py")),
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    named = {name: path for path, text in texts.items() for name in re.findall(r"\bEDA_[A-Z][A-Z_]+[A-Z]\b", text)}
    assert len(named) > 20
    assert {name: path for name, path in named.items() if name not in declared | OTHERS} == {}
    reads = [
        str(path)
        for path, text in texts.items()
        if path.suffix == ".py" and re.search(r"environ(\.get\(|\[)\"EDA_", text)
    ]
    assert reads == []


def test_variables_are_read_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDA_HOME", str(tmp_path))
    monkeypatch.setenv("EDA_ATTEMPT", "3")
    monkeypatch.setenv("EDA_LOCAL_ROOTS", os.pathsep.join(["/data", "/more data"]))
    assert (home_dir(), current_attempt(), Settings.from_env().home) == (tmp_path.resolve(), 3, tmp_path)
    assert Settings.from_env().local_roots == Environment.read().local_roots == (Path("/data"), Path("/more data"))
    for name in ("EDA_HOME", "EDA_ATTEMPT", "EDA_LOCAL_ROOTS"):
        monkeypatch.setenv(name, "")
    assert (home_dir(), current_attempt(), current_roots()) == (Path("~/.eda").expanduser().resolve(), 1, None)


@pytest.mark.parametrize(
    ("name", "value"), [("EDA_PORT", "0"), ("EDA_SERVE_PROXY_LOCATION", "Nowhere"), ("EDA_LEASE_S", "soon")]
)
def test_a_variable_out_of_its_bounds_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{name} is .*it must be"):
        Settings.from_env()


def test_a_command_is_told_which_variable_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDA_ATTEMPT", "first")
    with pytest.raises(InputError, match=r"EDA_ATTEMPT is 'first': .*; correct it or unset it"):
        current_attempt()


def test_what_is_given_by_name_overrules_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDA_PORT", "9000")
    assert (Settings(port=8000).port, Settings().port) == (8000, 9000)
