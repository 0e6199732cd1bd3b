"""Prompt files at submit: every row is read, what was read is copied, and the job reads the copy."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.settings import Settings
from eda_service.config.job import DatasetSpec
from eda_service.errors import ArtifactCorruptError, DatasetInvalidError
from eda_service.selfgen import row_files
from eda_service.selfgen.prompts import load_prompts
from eda_service.selfgen.skipped_rows import SkippedRows
from eda_service.storage.inputs import input_files

BODY: dict[str, Any] = {"model": "org/model", "base_draft": "small@1", "force": True}


@pytest.fixture
def path(settings: Settings) -> Path:
    return settings.local_roots[0] / "prompts.jsonl"


@pytest.fixture(autouse=True)
def _home(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDA_HOME", str(settings.home))


def lines(count: int, word: str = "question") -> str:
    return "".join(json.dumps({"prompt": f"{word} {n}"}) + "\n" for n in range(count))


def send(client: TestClient, path: Path, route: str = "/v1/adaptations", **changes: Any) -> Any:
    return client.post(route, json={**BODY, "dataset": {"source": str(path)}, **changes})


def texts(dataset: dict[str, Any]) -> set[str]:
    found = load_prompts(DatasetSpec.model_validate(dataset), seed=0)
    return {prompt.messages[0]["content"].split()[0] for prompt in found}


def copies(settings: Settings) -> list[Path]:
    return sorted((settings.home / "inputs").glob("*"))


def test_the_job_reads_what_was_checked(client: TestClient, settings: Settings, path: Path) -> None:
    path.write_text(lines(300))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    dataset = send(client, path).json()["dataset"]
    assert (dataset["source"], dataset["sha256"]) == (str(path), digest)
    (settings.local_roots[0].parent / "outside.jsonl").write_text(lines(300, "secret"))
    path.unlink()
    path.symlink_to("../outside.jsonl")
    assert texts(dataset) == {"question"}
    path.unlink()
    assert texts(dataset) == {"question"}
    (copy,) = copies(settings)
    assert copy.name == f"{digest}.jsonl"
    assert [stat.S_IMODE(each.stat().st_mode) for each in (copy, copy.parent)] == [0o600, 0o700]


def test_equal_files_are_one_copy_and_held_out_prompts_have_their_own(
    client: TestClient, settings: Settings, path: Path
) -> None:
    path.write_text(lines(300))
    held_out = path.with_name("held-out.jsonl")
    held_out.write_text(lines(40, "held"))
    twin = path.with_name("twin.jsonl")
    twin.write_text(lines(300))
    first = send(client, path, eval_dataset={"source": str(held_out)}).json()["config"]
    second = send(client, twin).json()["config"]
    assert first["dataset"]["sha256"] == second["dataset"]["sha256"]
    assert len(copies(settings)) == 2
    assert (texts(first["dataset"]), texts(first["eval_dataset"])) == ({"question"}, {"held"})


@pytest.mark.parametrize("route", ["/v1/adaptations/estimate", "/v1/adaptations"])
def test_an_estimate_and_a_refused_request_keep_nothing(
    client: TestClient, settings: Settings, path: Path, route: str, new_target_dir: Any
) -> None:
    path.write_text(lines(300))
    send(client, path, route, model=str(path.parent / "none"))
    send(client, path, route, webhook={"url": "https://127.0.0.1/x"})
    if route.endswith("estimate"):
        send(client, path, route, model=str(new_target_dir(path.parent / "tiny", "llama")))
    path.write_text(lines(2000) + "{\n" * 300)  # after many good lines
    answer = send(client, path, route)
    assert answer.status_code == 400
    assert "dataset.source, line 2001: not JSON" in answer.json()["error"]["message"]
    assert copies(settings) == []


@pytest.mark.parametrize("digest", ["0" * 64, None])
@pytest.mark.parametrize("source", ["self", "org/data", "reasoning-gym:gsm_symbolic"])
def test_nobody_names_a_copy_by_its_hash(
    client: TestClient, settings: Settings, path: Path, source: str, digest: str | None
) -> None:
    path.write_text(lines(300, "another owner's"))
    kept = send(client, path).json()["dataset"]["sha256"]
    wanted = digest or kept
    job = client.post("/v1/adaptations", json={**BODY, "dataset": {"source": source, "sha256": wanted}}).json()
    assert job["config"]["dataset"]["sha256"] is None
    over = {"config": {"dataset": {"source": source, "sha256": wanted}}}
    assert client.post("/v1/adaptations", json={**BODY, **over}).json()["config"]["dataset"]["sha256"] is None
    path.write_text(lines(300, "own"))
    own = send(client, path, dataset={"source": str(path), "sha256": wanted}).json()["dataset"]
    assert own["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_copy_that_is_gone_or_spoilt_is_told(client: TestClient, settings: Settings, path: Path) -> None:
    path.write_text(lines(300))
    dataset = DatasetSpec.model_validate(send(client, path).json()["dataset"])
    (copy,) = copies(settings)
    copy.write_text(lines(300, "spoilt"))
    with pytest.raises(ArtifactCorruptError, match="at submit it was") as corrupt:
        load_prompts(dataset, seed=0)
    copy.unlink()
    with pytest.raises(DatasetInvalidError, match="is gone; submit the job again") as gone:
        load_prompts(dataset, seed=0)
    for caught in (corrupt, gone):
        assert str(path) in str(caught.value)
        assert str(settings.home) not in str(caught.value)


def test_another_machine_fetches_the_copy_from_storage(
    client: TestClient, settings: Settings, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDA_STORAGE", str(tmp_path / "storage"))
    path.write_text(lines(300))
    dataset = send(client, path, base_draft="smollm2-135m@3").json()["dataset"]
    monkeypatch.setenv("EDA_HOME", str(tmp_path / "another-home"))
    path.unlink()
    assert texts(dataset) == {"question"}


def test_the_number_is_lowered_unless_it_was_asked_for(client: TestClient, path: Path) -> None:
    path.write_text(lines(40) + lines(20))
    config = send(client, path).json()["config"]
    assert (config["dataset"]["num_prompts"], config["evaluation"]["num_prompts"]) == (40, 16)
    config = send(client, path, preset="demo").json()["config"]
    assert config["dataset"]["num_prompts"] == 40
    for changes in (
        {"dataset": {"source": str(path), "num_prompts": 41}},
        {"config": {"dataset": {"num_prompts": 41}}},
    ):
        error = send(client, path, **changes).json()["error"]
        assert (error["code"], error["param"]) == ("dataset_invalid", "dataset.num_prompts")
        assert "has 40 distinct prompts, dataset.num_prompts is 41" in error["message"]
    assert send(client, path, dataset={"source": str(path), "num_prompts": 40}).status_code == 201


def test_the_evaluations_share_is_lowered_with_it_unless_it_was_asked_for(client: TestClient, path: Path) -> None:
    path.write_text(lines(16))
    config = send(client, path).json()["config"]
    assert (config["dataset"]["num_prompts"], config["evaluation"]["num_prompts"]) == (16, 4)
    error = send(client, path, evaluation={"num_prompts": 16}).json()["error"]
    assert "evaluation.num_prompts is 16 but dataset.num_prompts is only 16" in error["message"]
    path.write_text(lines(7))
    error = send(client, path).json()["error"]
    assert (error["param"], error["code"]) == ("dataset.source", "dataset_invalid")
    assert "has 7 distinct prompts, at least 8 are used" in error["message"]


def test_rows_without_a_prompt_are_told_and_the_job_skips_the_same(client: TestClient, path: Path) -> None:
    sharegpt = json.dumps({"conversations": [{"from": "human", "value": "question x"}, {"from": "gpt", "value": "y"}]})
    path.write_text("\ufeff" + lines(39) + sharegpt + '\n{"prompt": " "}\nnot JSON\n')
    dataset = send(client, path).json()["dataset"]
    assert dataset["num_prompts"] == 40
    skipped = SkippedRows(0.1)
    assert len(load_prompts(DatasetSpec.model_validate(dataset), seed=0, skipped=skipped)) == 40
    assert skipped.num == 2
    path.write_text(lines(40) + "{}\n" * 5)
    refused = send(client, path).json()["error"]
    assert (refused["code"], refused["param"]) == ("dataset_invalid", "dataset.source")
    assert "line 41: no messages" in refused["message"]
    assert "5 of 45 rows hold no prompt, at most 10% may be skipped" in refused["message"]


def test_an_estimate_says_what_was_lowered(client: TestClient, path: Path, new_target_dir: Any, settings: Any) -> None:
    config = settings.home / "drafts" / "small" / "1" / "config.json"
    sizes = {"hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "expert_width": 48, "vocab_size": 112}
    config.write_text(json.dumps({**sizes, "rope_theta": 10000.0, "rms_norm_eps": 1e-6}))
    path.write_text(lines(16))
    model = str(new_target_dir(path.parent / "tiny", "llama"))
    answer = send(client, path, "/v1/adaptations/estimate", model=model)
    assert answer.status_code == 200, answer.text
    assert answer.json()["warnings"][:2] == [
        "dataset.num_prompts is 16, which is what dataset.source has",
        "evaluation.num_prompts is 4, one in 4 of the 16 prompts",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"pormpt": "other keys"}\n', r"line 1: no messages"),
        ('{"prompt": "x", "id": [1]}\n', "line 1: id is a list"),
        (lines(8) + '{"prompt": "caf\udce9"}\n', "line 9: cannot be read as UTF-8"),
        ('{"prompt": "a", "id": "same"}\n{"prompt": "b", "id": "same"}\n', "two different prompts have the id 'same'"),
        ('{"' + "k" * 9000 + '": 1}\n', "line 1: no messages"),
    ],
)
def test_rows_are_held_against_what_the_job_takes(client: TestClient, path: Path, text: str, problem: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    error = send(client, path).json()["error"]
    assert (error["code"], error["param"]) == ("dataset_invalid", "dataset.source")
    assert problem in error["message"]
    assert len(error["message"]) < 400


def test_what_is_packed_is_copied_unpacked_and_the_job_reads_the_same(
    client: TestClient, settings: Settings, path: Path
) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    rows = [{"messages": [{"role": "user", "content": f"q {n}"}], "tools": tools} for n in range(300)]
    text = json.dumps([*rows, {"text": "no prompt"}], indent=1).encode()
    path.write_bytes(gzip.compress(text, mtime=0))
    dataset = send(client, path).json()["dataset"]
    assert dataset["sha256"] == hashlib.sha256(text).hexdigest()
    assert [each.read_bytes() for each in copies(settings)] == [text]
    skipped = SkippedRows(0.1)
    found = load_prompts(DatasetSpec.model_validate(dataset), seed=0, skipped=skipped)
    assert all(each.tools == tools for each in found)
    assert skipped.reasons == [
        f"{path}, row 301: `text` is one text, in which nothing says where the answer begins; "
        "give `prompt` or `messages`"
    ]


def test_a_file_that_is_too_large_is_refused(client: TestClient, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(lines(300))
    monkeypatch.setattr(row_files, "MAX_FILE_BYTES", path.stat().st_size - 1)
    assert "has more than" in send(client, path).json()["error"]["message"]


def test_a_full_disk_is_told_and_leaves_nothing(client: TestClient, path: Path, settings: Settings) -> None:
    path.write_text(lines(300))
    (settings.home / "inputs").mkdir()
    copy = input_files.Copy(settings.home / "inputs" / "x")
    copy._stream.close()
    copy._stream = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(Exception, match="disk is full") as caught:
        copy.write(b"x" * 100)
    assert getattr(caught.value, "code", None) == "insufficient_storage"
    copy.close()
    assert copies(settings) == []


def test_what_a_killed_process_left_is_removed(client: TestClient, path: Path, settings: Settings) -> None:
    path.write_text(lines(300))
    (settings.home / "inputs").mkdir()
    old, young = (settings.home / "inputs" / f".input.{n}.tmp" for n in (1, 2))
    for each in (old, young):
        each.write_text("x")
    os.utime(old, (0, 0))
    send(client, path)
    assert [each.name for each in copies(settings) if each.suffix == ".tmp"] == [young.name]
