"""`eda packs`: what it sends and prints, against the real application; to a directory and back."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import pytest
from command_line import Cli
from draft_files import put_draft
from live_api import LiveApi
from pack_files import put_pack
from scripted_service import Answer, ScriptedService


@pytest.fixture
def pack(live: LiveApi) -> str:
    """The name of a pack with two versions."""
    name = f"p-{uuid.uuid4().hex[:8]}"
    made = int(time.time()) - 7200
    put_pack(live.home, name, 2.0, created_at=made)
    beside = {"rivals": {f"{name}@1": (2.0, 1.2)}, "unmeasured": {f"{name}@0": "gone"}}
    put_pack(live.home, name, 2.5, speedup=1.5, created_at=made, prompts="q", **beside)  # type: ignore[arg-type]
    return name


def test_a_list_has_what_is_asked_for(eda: Cli, live: LiveApi, pack: str) -> None:
    head, second, first = eda("packs", "ls", pack, url=live.url).stdout.splitlines()
    assert head.split() == ["PACK", "TARGET", "DRAFT", "ACCEPTANCE", "SPEEDUP", "MARK", "SIZE", "JOB", "AGE"]
    assert second.split("  ")[0] == f"{pack}@2"
    words = ["org/model", "small@1", "1.40 -> 2.50", "1.50x", "champion", "1 B", "-", "2h00m"]
    assert [each.strip() for each in second.split("  ") if each.strip()] == [f"{pack}@2", *words]
    assert "  2.00  " not in second
    assert first.split()[3:8] == ["1.40", "->", "2.00", "-", "-"]
    everything = json.loads(eda("packs", "ls", "--json", url=live.url).stdout)
    assert [each["id"] for found in everything if found["name"] == pack for each in found["versions"]] == [
        f"{pack}@2", f"{pack}@1",
    ]  # fmt: skip


def test_one_version_is_shown_whole(eda: Cli, live: LiveApi, pack: str) -> None:
    shown = eda("packs", "show", pack, url=live.url).stdout
    assert shown.splitlines()[1].startswith(f"{pack}@2  org/model  small@1  1.40 -> 2.50  1.50x    champion")
    for line in (
        "numbers  adapted_draft.acceptance_length.t0 2.5",
        f"beside   {pack}@1: acceptance 2.00, speed 1.20x",
        f"not by   {pack}@0: gone",
        "made     method eda, 4 of 10 parameters trained, seed 0",
        "made     draft small@1, d",
        "setting  selection.keep_fraction=0.5",
        "setting  target.model=org/model",
        f"serves   nowhere; `eda packs deploy {pack}@2` deploys it",
    ):
        assert line in shown.splitlines(), line
    as_json = json.loads(eda("packs", "show", f"{pack}@1", "--json", url=live.url).stdout)
    assert (as_json["id"], as_json["config"]["target"]["model"]) == (f"{pack}@1", "org/model")


def test_two_are_compared_or_it_is_said_why_not(eda: Cli, live: LiveApi, pack: str) -> None:
    lines = eda("packs", "compare", f"{pack}@2", f"{pack}@1", url=live.url).stdout.splitlines()
    assert [line.split() for line in lines[1:3]] == [[f"{pack}@2", "2.50", "1.50x"], [f"{pack}@1", "2.00", "1.20x"]]
    assert lines[3].startswith(f"{pack}@2 accepts 1.250 times as much; the job of {pack}@2 measured both, on ")
    put_pack(live.home, pack, 2.2, prompts="r")
    apart = eda("packs", "compare", f"{pack}@3", f"{pack}@1", url=live.url)
    assert apart.exit_code == 0
    assert apart.stdout.startswith(f"{pack}@3 and {pack}@1 cannot be compared: they were measured apart")


def test_pin_deploy_and_remove(eda: Cli, live: LiveApi, pack: str) -> None:
    pinned = eda("packs", "pin", f"{pack}@1", url=live.url)
    assert pinned.stdout.startswith(f"{pack} means {pack}@1; ")
    assert "pinned" in eda("packs", "ls", pack, url=live.url).stdout.splitlines()[2]
    deployed = eda("packs", "deploy", pack, "--replicas", "1-2", url=live.url)
    assert deployed.stdout == f"{pack} pending revision 1: {pack}@1\n"
    assert f"serves   {pack} (as {pack})" in eda("packs", "show", pack, url=live.url).stdout
    again = eda("packs", "deploy", f"{pack}@2", url=live.url)
    assert (again.exit_code, "is taken" in again.stderr) == (2, True)
    kept = eda("packs", "rm", f"{pack}@1", url=live.url)
    assert (kept.exit_code, f"deployment {pack}, a pin of local" in kept.stderr) == (2, True)
    assert eda("packs", "pin", pack, "--off", url=live.url).stdout == f"nothing is pinned; {pack} means {pack}@2\n"
    assert eda("deployments", "rm", pack, url=live.url).exit_code == 0
    assert json.loads(eda("packs", "rm", f"{pack}@1", "--json", url=live.url).stdout) == {
        "id": f"{pack}@1",
        "deleted": True,
    }
    assert eda("packs", "show", f"{pack}@1", url=live.url).exit_code == 2


def test_a_target_that_moved_is_named(eda: Cli, scripted: ScriptedService) -> None:
    made = {
        "name": "p",
        "state": "pending",
        "model": "m",
        "replicas": {"min": 1, "max": 1},
        "revision": 1,
        "pack": "p@1",
    }
    scripted.on("POST", "/v1/deployments", Answer({**made, "created_at": 1, "updated_at": 1}))
    done = eda("packs", "deploy", "p@1", "--model", "org/moved", "--force", url=scripted.url)
    assert done.exit_code == 0, done.output
    (request,) = scripted.seen("POST", "/v1/deployments")
    assert request.body == {"pack": "p@1", "name": "p", "model": "org/moved", "force": True}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pin", "math"), "write one like name@3"),
        (("pin", "math@latest"), "write one like name@3"),
        (("pin", "math@1", "--off"), "write math alone"),
        (("show", "../x"), "names no pack"),
        (("rm", "a b"), "names no pack"),
        (("ls", "../x"), "is no name"),
        (("push", "none@1", "me/x"), "no pack 'none@1'"),
        (("push", "none@1", "x"), "write owner/name"),
        (("pull", "x"), "write owner/name"),
        (("pull", "./nowhere"), "is no directory here"),
        (("pull", ".", "--revision", "main"), "write owner/name"),
    ],
)
def test_what_cannot_be_is_said_here(eda: Cli, scripted: ScriptedService, words: tuple[str, ...], said: str) -> None:
    done = eda("packs", *words, url=scripted.url)
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    assert scripted.requests == []


def test_a_card_is_printed_and_a_damaged_repository_is_refused(eda: Cli, tmp_path: Path) -> None:
    home = tmp_path / "home"
    put_draft(home)
    put_pack(home, "math", 2.0)
    card = eda("packs", "push", "math", "me/math", "--license", "mit", "--dry-run")
    assert card.exit_code == 0, card.output
    assert card.stdout.startswith("---\nlicense: mit\nlibrary_name: eda-service\nbase_model: org/model\n")
    place = str(tmp_path / "out")
    done = eda("packs", "push", "math@1", place, "--license", "mit")
    assert (done.exit_code, done.stdout) == (0, f"pushed math@1 to {place}\n")
    assert eda("packs", "pull", place).exit_code == 2  # one byte of weights, over a draft of one byte
    assert not (home / "packs" / "math" / "2").exists()
