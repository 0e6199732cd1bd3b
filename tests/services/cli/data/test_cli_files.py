"""`eda data upload | ls | rm`, and `eda adapt --prompts`, whose files are sent where the service is elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from command_line import Cli
from live_api import LiveApi

from eda_service.cli.data.uploads import is_remote


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{tmp_path.name} {n}"}) + "\n" for n in range(90)))
    return path


def test_a_file_is_sent_listed_and_deleted(eda: Cli, live: LiveApi, rows: Path) -> None:
    url = ("--url", live.url)
    sent = eda("data", "upload", str(rows), "--name", "mine.jsonl", *url)
    assert sent.exit_code == 0, sent.output
    file_id = sent.stdout.split()[0]
    assert f"{file_id} mine.jsonl: 90 prompts\nnext: eda adapt TARGET --prompts {file_id}\n" == sent.stdout
    listed = json.loads(eda("data", "ls", "--json", *url).stdout)
    assert [(each["filename"], each["num_prompts"]) for each in listed if each["id"] == file_id] == [("mine.jsonl", 90)]
    assert file_id in eda("data", "ls", *url).stdout
    assert eda("data", "rm", file_id, *url).exit_code == 0
    gone = eda("data", "rm", file_id, *url)
    assert (gone.exit_code, "list the files" in gone.stderr) == (2, True)
    assert "is no file id" in eda("data", "rm", "../x", *url).stderr
    missing = eda("data", "upload", str(rows.with_name("nowhere")), *url)
    assert (missing.exit_code, "No such file" in missing.stderr) == (2, True)


def test_adapt_sends_its_prompts_when_it_is_asked_to(eda: Cli, live: LiveApi, rows: Path) -> None:
    ask = ("adapt", "org/model", "--base-draft", "small@1", "--url", live.url, "--force", "--json")
    made = eda(*ask, "--prompts", str(rows), "--upload", "--seed", "1")
    assert made.exit_code == 0, made.output
    dataset = json.loads(made.stdout)["config"]["dataset"]
    assert dataset["source"].startswith("file-")
    assert dataset["sha256"] == hashlib.sha256(rows.read_bytes()).hexdigest()
    by_path = eda(*ask, "--data", str(rows), "--seed", "2")  # the service is here, and may not read it there
    assert (by_path.exit_code, "upload it (`eda data upload FILE`)" in by_path.stderr) == (2, True)
    by_id = json.loads(eda(*ask, "--data", dataset["source"], "--upload", "--seed", "3").stdout)["config"]["dataset"]
    assert by_id["source"] == dataset["source"]


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("http://127.0.0.1:8700", False),
        ("http://localhost:8700", False),
        ("http://[::1]:8700", False),
        ("https://eda.example.org", True),
        ("http://10.0.0.7:8700", True),
    ],
)
def test_only_loopback_is_this_machine(url: str, remote: bool) -> None:
    assert is_remote(url) is remote
