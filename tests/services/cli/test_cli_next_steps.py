"""What is refused at the command line says the next step as a command: no route, no word of a library, exit code 2."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from command_line import Cli, job_body
from live_api import LiveApi
from scripted_service import Answer, ScriptedService

import api
import eda_service
from eda_service.cli.as_commands import as_commands

ROUTE = re.compile(r"(GET|POST|PUT|PATCH|DELETE) /v1/[\w/{}.-]*")
WRONG = {
    # names and ids that are not there
    ("jobs", "show", "adapt_none"): ("no job 'adapt_none'; `eda jobs ls` lists them",),
    ("jobs", "cancel", "measure_none"): ("no job 'measure_none'; `eda jobs ls` lists them",),
    ("report", "adapt_none"): ("no job 'adapt_none'; `eda jobs ls` lists them",),
    ("packs", "show", "nope"): ("no pack 'nope'; `eda packs ls` lists them",),
    ("packs", "rm", "nope@1"): ("no pack 'nope'; `eda packs ls` lists them",),
    ("packs", "push", "nope@1", "a/b"): ("its versions: none; `eda packs ls` lists what there is",),
    ("packs", "pull", "./nowhere"): ("'./nowhere' is no directory here; check its name",),
    ("deployments", "show", "nope"): ("no deployment 'nope'; `eda deployments ls` lists them",),
    ("deployments", "rm", "nope"): ("no deployment 'nope'; `eda deployments ls` lists them",),
    ("deployments", "create", "smollm2-135m-math", "--pack", "nope@1"): ("`eda packs ls` lists them",),
    ("drafts", "show", "nope"): ("no base draft 'nope'; available: small@1", "`eda drafts import`"),
    ("measure", "smollm2-135m-math", "--draft", "nope@1"): ("available: small@1", "`eda drafts import`"),
    ("export", "nope", "--to", "vllm", "--out", "{dir}/x"): ("name one of them, or make a pack with `eda adapt`",),
    ("chat", "nope", "--once", "hi"): ("the model 'nope' does not exist", "`eda deployments create` serves a target"),
    # files
    ("data", "check", "{dir}/none.jsonl"): ("No such file or directory; check its name",),
    ("data", "check", "{dir}/rows.jsonl", "--adapter", "x"): ("--adapter names an adapter on --model", "give both"),
    ("data", "upload", "{dir}/none.jsonl"): ("cannot be read: No such file or directory; check its name",),
    ("adapt", "smollm2-135m-math", "--data", "./none.jsonl"): ("nothing is at ./none.jsonl; check the path",),
    ("drafts", "import", "../none", "--target", "org/model"): ("nothing is at ../none; check the path",),
    ("adapt", "smollm2-135m-math", "--data", "file-01NOPE"): ("is no id of an uploaded file", "`eda data ls`"),
    ("up", "--allow", "{dir}/none", "--home", "{dir}/home"): ("--allow {dir}/none is no directory; name one",),
    ("join", "127.0.0.1:1", "--home", "{dir}/home"): ("holds no cluster's token; give the --home of `eda up`",),
    # values
    ("deployments", "create", "m", "--replicas", "500"): ("replicas is 500; it must be at most 64",),
    ("deployments", "create", "m", "--replicas", "5-2"): ("5 is above 2; exchange them",),
    ("deployments", "create", "m", "--replicas", "x"): ("is neither a number nor MIN-MAX, such as 1-4",),
    ("deployments", "create", "m", "--engine", "vllm", "--vllm", "form=thick"): ("it must be plugin or dense",),
    ("deployments", "update", "m", "--drift", "redact=[a"): ("is no JSON value; close its quotes and brackets",),
    ("jobs", "ls", "--kind", "mesure"): ("it must be import_draft or measure or export; did you mean 'measure'?",),
    ("export", "small@1", "--to", "vlm", "--out", "x"): ("it is 'vlm'; it must be vllm or sglang or hf; did you mean",),
    ("demo", "--preset", "deom", "--output", "{dir}/demo"): ("no preset 'deom'; did you mean 'demo'?",),
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG, ids=" ".join)
def test_the_next_step_is_a_command(eda: Cli, live: LiveApi, tmp_path: Path, line: tuple[str, ...]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q"}\n' * 20)
    words = [word.replace("{dir}", str(tmp_path)) for word in line]
    done = eda(*words, url=live.url, env={"COLUMNS": "300"})
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    said = " ".join(done.stderr.split())
    assert [each for each in WRONG[line] if each.replace("{dir}", str(tmp_path)) not in said] == [], said
    assert ROUTE.search(said) is None
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "demo").exists()


def texts(root: Path) -> list[str]:
    """Every text in the sources that is no docstring of a module, with what is filled in left open."""
    found = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "x1" for part in node.values))
            elif isinstance(node, ast.Raise):
                found += [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    return [text for text in found if isinstance(text, str) and ROUTE.search(text)]


def test_every_route_that_an_error_names_has_a_command() -> None:
    named = texts(Path(api.__file__).parent) + texts(Path(eda_service.__file__).parent)
    assert len(named) >= 6
    assert [text for text in named if ROUTE.search(as_commands(text))] == []


def test_of_one_thing_the_command_shows_that_one() -> None:
    assert as_commands("a is being loaded; see GET /v1/deployments/a-1.b") == (
        "a is being loaded; see `eda deployments show a-1.b`"
    )
    assert as_commands("GET /v1/unheard lists them") == "GET /v1/unheard lists them"


@pytest.mark.parametrize(
    ("reference", "job", "said"),
    [
        ("adapt_1", {"status": "running"}, ("no pack 'adapt_1' yet", "`eda jobs watch adapt_1`, then export model")),
        ("model@1", {"status": "queued"}, ("no pack 'model@1' yet", "is queued", "`eda jobs watch adapt_1`")),
        ("model", {"status": "failed"}, ("is failed; see `eda jobs show adapt_1`",)),
        ("adapt_1", {"status": "succeeded", "result_pack": "m@3"}, ("is a job and no pack", "m@3: export that")),
        ("other", {"status": "running"}, ("no pack and no base draft 'other'",)),
    ],
)
def test_an_export_of_what_a_job_is_to_publish_names_the_job(
    eda: Cli, scripted: ScriptedService, tmp_path: Path, reference: str, job: dict[str, str], said: tuple[str, ...]
) -> None:
    scripted.on("GET", "/v1/adaptations", Answer({"data": [{**job_body(), **job}], "has_more": False}))
    done = eda("export", reference, "--to", "vllm", "--out", str(tmp_path / "x"), url=scripted.url)
    assert done.exit_code == 2
    assert [each for each in said if each not in done.stderr] == [], done.stderr
