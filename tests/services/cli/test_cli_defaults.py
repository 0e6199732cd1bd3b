"""A user's defaults file: a flag wins over a variable, that over the file, and the file over what is built in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import ROOT, Cli, job_body
from scripted_service import Answer, ScriptedService

from eda_service.cli.defaults import DefaultsFile, read_key
from eda_service.cli.service.checks import check_defaults
from eda_service.errors import InputError


@pytest.fixture
def file(tmp_path: Path, eda: Cli) -> Path:
    """Where this user's file is."""
    path = tmp_path / "config.toml"
    path.write_text("")
    eda.env["EDA_CONFIG"] = str(path)
    return path


def test_options_of_a_command_and_the_service(eda: Cli, file: Path, scripted: ScriptedService) -> None:
    key = file.parent / "key"
    key.write_text("eda_of_the_file\n")
    key.chmod(0o600)
    file.write_text(
        f'url = "{scripted.url}"\napi_key_file = "{key}"\n'
        '[adapt]\npreset = "demo"\nnum_prompts = 64\nset = ["train.epochs=4"]\n[jobs.ls]\nlimit = 3\n'
    )
    scripted.on("POST", ROOT, Answer(job_body(), status=201))
    scripted.on("GET", ROOT, Answer({"data": [], "has_more": False}))
    assert eda("adapt", "org/model", "--preset", "paper", "--json").exit_code == 0
    sent = scripted.seen("POST", ROOT)[0]
    assert (sent.body["preset"], sent.body["dataset"], sent.body["config"]) == (
        "paper",
        {"num_prompts": 64},
        {"train": {"epochs": 4}},
    )
    assert sent.headers["authorization"] == "Bearer eda_of_the_file"
    assert eda("jobs", "ls", env={"EDA_API_KEY": "eda_of_the_environment"}).exit_code == 0
    listed = scripted.seen("GET", ROOT)[0]
    assert (listed.query["limit"], listed.headers["authorization"]) == ("3", "Bearer eda_of_the_environment")


def test_a_variable_and_a_flag_win_over_its_address(eda: Cli, file: Path, scripted: ScriptedService) -> None:
    file.write_text('url = "http://127.0.0.1:9"\n')
    scripted.on("GET", ROOT, Answer({"data": [], "has_more": False}))
    assert eda("jobs", "ls", "--url", scripted.url).exit_code == 0
    assert eda("jobs", "ls", url=scripted.url).exit_code == 0
    assert len(scripted.seen("GET", ROOT)) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("urll = 'x'", "no field urll; did you mean url?"),
        ("url = 3", "url is 3; it must be text in quotes"),
        ("adapt = 'demo'", "adapt is a command; write it as a table, [adapt]"),
        ("[adapt]\npresett = 'demo'", "no field adapt.presett; did you mean adapt.preset or"),
        ("[adapt]\nwatch = 'yes'", "adapt.watch is 'yes'; it must be true or false"),
        ("[adapt]\nset = 'a=1'", "adapt.set is 'a=1'; it must be a list of texts"),
        ("[adapt]\nnum_prompts = [3]", "adapt.num_prompts is '[3]'; it must be one value"),
        ("[jobs.list]\nlimit = 3", "no field jobs.list; did you mean"),
        ("url = ", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_in_it(eda: Cli, file: Path, text: str, told: str) -> None:
    file.write_text(text)
    done = eda("jobs", "ls")
    assert (done.exit_code, told in done.stderr, str(file) in done.stderr) == (2, True, True), done.stderr


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"EDA_CONFIG names .*none\.toml, which is not there"):
        DefaultsFile.read({"EDA_CONFIG": str(tmp_path / "none.toml")})
    found = DefaultsFile.read({"XDG_CONFIG_HOME": str(tmp_path)})
    assert (found.path, found.is_there) == (tmp_path / "eda" / "config.toml", False)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("eda_1_2")
    os.chmod(key, 0o644)
    with pytest.raises(InputError, match=f"others may read the key in {key}; chmod 600"):
        read_key(DefaultsFile(tmp_path / "config.toml", api_key_file=str(key)))
    key.chmod(0o600)
    assert read_key(DefaultsFile(tmp_path / "config.toml", api_key_file=str(key))) == "eda_1_2"


def test_doctor_names_the_file(tmp_path: Path) -> None:
    there = DefaultsFile(tmp_path / "c.toml", is_there=True, url="http://x", commands={"adapt": {"preset": "demo"}})
    assert check_defaults(there).found == f"{tmp_path / 'c.toml'} sets url, [adapt]"
    assert check_defaults(DefaultsFile(tmp_path / "c.toml")).found == f"none; {tmp_path / 'c.toml'} would be read"
