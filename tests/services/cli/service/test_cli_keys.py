"""`eda keys` on a real database, and the service that asks for the keys it made."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from api.app import create_app
from api.settings import Settings
from eda_service.cli.main import app
from eda_service.jobstore.home import database_name, open_store
from eda_service.raycluster.supervisor import take_lock


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("EDA_HOME", str(tmp_path))
    monkeypatch.delenv("EDA_DATABASE_URL", raising=False)
    open_store(tmp_path).close()  # as `eda up` makes it
    return CliRunner()


@pytest.mark.parametrize("command", [["create", "x"], ["ls"], ["revoke", "x"], ["open", "--yes"]])
@pytest.mark.parametrize("place", ["typo", "of-something-else", "file"])
def test_a_home_that_is_none_is_refused_and_left_as_it_is(
    runner: CliRunner, tmp_path: Path, command: list[str], place: str
) -> None:
    (tmp_path / "of-something-else").mkdir(mode=0o755)
    (tmp_path / "file").touch()
    home = tmp_path / place
    refused = runner.invoke(app, ["keys", *command, "--home", str(home)])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{home} is not the home of a service: there is no database {home / 'eda.db'}" in refused.stderr
    assert "`eda up`" in refused.stderr
    assert not (tmp_path / "typo").exists()
    assert ((tmp_path / "of-something-else").stat().st_mode & 0o777, (tmp_path / "file").is_file()) == (0o755, True)
    assert list((tmp_path / "of-something-else").iterdir()) == []


def test_a_key_is_shown_once_opens_the_service_and_can_be_revoked(runner: CliRunner, tmp_path: Path) -> None:
    made = runner.invoke(app, ["keys", "create", "laptop", "--owner", "ada", "--expires-days", "2"])
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert key.startswith("eda_")
    listed = runner.invoke(app, ["keys", "ls", "--json"])
    (fields,) = json.loads(listed.stdout)
    assert (fields["owner"], fields["name"], fields["scopes"]) == (
        "ada",
        "laptop",
        ["infer", "jobs:read", "jobs:write"],
    )
    assert key.rsplit("_", 1)[1] not in listed.stdout
    assert "laptop" in runner.invoke(app, ["keys", "ls"]).stdout
    with TestClient(create_app(Settings(home=tmp_path, ray_dashboard_url="http://127.0.0.1:9"))) as client:
        assert client.get("/v1/adaptations").status_code == 401
        headers = {"authorization": f"Bearer {key}"}
        assert client.get("/v1/adaptations", headers=headers).status_code == 200
        assert runner.invoke(app, ["keys", "revoke", fields["id"]]).exit_code == 0
        assert client.get("/v1/adaptations", headers=headers).status_code == 401


def test_a_damaged_key_is_listed_as_such_beside_the_others(runner: CliRunner, tmp_path: Path) -> None:
    for name in ("laptop", "monitor"):
        assert runner.invoke(app, ["keys", "create", name]).exit_code == 0
    with sqlite3.connect(tmp_path / "eda.db") as connection:
        connection.execute("UPDATE api_keys SET scopes = '{' WHERE name = 'laptop'")
    connection.close()
    lines = runner.invoke(app, ["keys", "ls"]).stdout.splitlines()
    assert sorted("unreadable" in line for line in lines[1:]) == [False, True]


@pytest.mark.parametrize(
    "arguments", [["create", "x", "--owner", "a b"], ["create", "x", "--scope", "root"], ["revoke", "nobody"]]
)
def test_bad_input_is_exit_code_2(runner: CliRunner, arguments: list[str]) -> None:
    assert runner.invoke(app, ["keys", *arguments]).exit_code == 2


@pytest.mark.parametrize("command", [["create", "x"], ["ls"], ["revoke", "x"]])
def test_a_running_service_with_another_database_is_told(
    runner: CliRunner, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is revoked in another database goes on working: that is no success."""
    theirs = "postgresql://eda:***@db.example/eda"
    (tmp_path / "eda.db").unlink()
    (tmp_path / "up.json").write_text(json.dumps({"api_url": "http://127.0.0.1:9", "database": theirs}))
    with take_lock(tmp_path / "up.lock", "taken"):
        refused = runner.invoke(app, ["keys", *command])
        assert refused.exit_code == 2
        assert theirs in refused.stderr
        assert str(tmp_path / "eda.db") in refused.stderr
        assert not (tmp_path / "eda.db").exists()
        (tmp_path / "up.json").write_text(json.dumps({"database": database_name(tmp_path)}))
        assert "keeps its keys" not in runner.invoke(app, ["keys", *command]).stderr
    (tmp_path / "up.json").write_text(json.dumps({"database": theirs}))  # of a supervisor that was killed
    assert "keeps its keys" not in runner.invoke(app, ["keys", *command]).stderr


def test_a_databases_name_holds_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDA_DATABASE_URL", "postgresql+psycopg://eda:secret@db.example/eda?sslpassword=secret")
    assert database_name(tmp_path) == "postgresql+psycopg://eda:***@db.example/eda"
    monkeypatch.setenv("EDA_DATABASE_URL", f"sqlite:///{tmp_path}/x/../eda.db")
    assert database_name(tmp_path) == str(tmp_path / "eda.db")


def test_the_first_key_says_that_it_locks_and_open_takes_that_back(runner: CliRunner, tmp_path: Path) -> None:
    first, second = (runner.invoke(app, ["keys", "create", name]) for name in ("one", "two"))
    assert "from now on every request needs one" in first.stderr
    assert "eda keys open" in first.stderr
    assert "from now on" not in second.stderr
    with TestClient(create_app(Settings(home=tmp_path, ray_dashboard_url="http://127.0.0.1:9"))) as client:
        for key in json.loads(runner.invoke(app, ["keys", "ls", "--json"]).stdout):
            assert runner.invoke(app, ["keys", "revoke", key["id"]]).exit_code == 0
        assert client.get("/v1/adaptations").status_code == 401  # revoking opens nothing
        unasked = runner.invoke(app, ["keys", "open"])
        assert (unasked.exit_code, "--yes" in unasked.stderr) == (2, True)
        assert client.get("/v1/adaptations").status_code == 401
        assert json.loads(runner.invoke(app, ["keys", "open", "--yes", "--json"]).stdout) == {
            "open": True,
            "forgotten": 2,
        }
        assert client.get("/v1/adaptations").status_code == 200
        assert (
            client.get("/v1/adaptations", headers={"authorization": f"Bearer {first.stdout.strip()}"}).status_code
            == 200
        )
    assert runner.invoke(app, ["keys", "ls"]).stdout == "no keys\n"


def test_a_service_that_others_reach_is_not_opened(runner: CliRunner, tmp_path: Path) -> None:
    assert runner.invoke(app, ["keys", "create", "one"]).exit_code == 0
    (tmp_path / "up.json").write_text(json.dumps({"api_url": "http://192.0.2.7:8700"}))
    refused = runner.invoke(app, ["keys", "open", "--yes"])
    assert (refused.exit_code, "where others reach it" in refused.stderr) == (2, True)
    assert "one" in runner.invoke(app, ["keys", "ls"]).stdout
