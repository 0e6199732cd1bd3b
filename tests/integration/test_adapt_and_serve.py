"""The real thing, small: a random target of 32 hidden units goes through every stage on Ray and is served.

`eda up`, a job over HTTP, a train worker killed in the middle, then the `openai` client against Ray Serve. The oracle
of the served text is the target's own greedy decoding through transformers' `generate`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil  # type: ignore[import-untyped]
import pytest
import torch
from published_drafts import write_published
from running import Service
from safetensors.torch import load_file
from tiny_models import fit_draft, random_eagle3, register_draft, write_adapter
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner
from waiting import TEST_TIMEOUT_S

from eda_service.cli.main import app
from eda_service.client import Adaptation, ApiError, Client
from eda_service.config.job import TargetSpec
from eda_service.export.files.directory import read_export
from eda_service.raycluster import processes
from eda_service.records import DraftCheckpoint, EvalReport, SelectionManifest, SelfGenManifest, Stage
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]

NAME = "tiny-tuned"
QUESTION = [{"role": "user", "content": "the other one and the user"}]
CONFIG: dict[str, Any] = {
    "selfgen": {"max_new_tokens": 24, "batch_size": 8, "shard_size": 8, "threads_per_actor": 1},
    "selection": {"num_reference_prompts": 8, "reference_max_new_tokens": 16, "pca_dim": 8},
    "train": {"epochs": 120, "batch_size": 4, "learning_rate": 2e-3, "checkpoint_every_steps": 20},
    "evaluation": {
        "num_prompts": 6,
        "max_new_tokens": 16,
        "num_timed_prompts": 1,
        "num_timed_repeats": 1,
        "threads": 1,
    },
    "deploy": {"min_gain": 0, "min_speed_gain": 0},  # a random target's draft gains nothing; it is served all the same
}


def write_prompts(path: Path, count: int) -> Path:
    lines = [{"prompt": f"the user and the other assistant number {i}"} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def tiny_dir(target_dir: Callable[[str], Path]) -> Path:
    return target_dir("llama")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, files: Path, tiny_dir: Path) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    target = load_target(TargetSpec(model=str(tiny_dir), dtype="float32"))
    register_draft(home, fit_draft(target, steps=60), target)
    with Service(home, {"EDA_BACKOFF_S": "0.2"}, allow=files.parent) as running:
        yield running


def body(tiny_dir: Path, files: Path, **changes: Any) -> dict[str, Any]:
    prompts = write_prompts(files / "prompts.jsonl", 38)
    asked = {
        "model": str(tiny_dir),
        "base_draft": "tiny@1",
        "served_name": NAME,
        "dataset": {"source": str(prompts), "num_prompts": 38},
        "config": {**CONFIG, "target": {"dtype": "float32"}},
    }
    return {**asked, **changes}


def train_workers(service: Service) -> list[psutil.Process]:
    """Ray Train's worker processes of this service."""
    found = []
    for process in (each for mark in service.up_file["marks"] for each in processes.marked(mark)):
        with contextlib.suppress(psutil.Error):
            if "TrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_one_train_worker(service: Service, client: Client, job_id: str) -> None:
    """SIGKILL one worker as soon as training has a checkpoint to go on from: there is a second one by then."""
    train_dir = RunDir.of_job(job_id, service.home).root / "train"
    for job in client.watch(job_id, interval_s=0.02):
        if len(list(train_dir.glob("ray/*/step-*"))) >= 2:
            workers = train_workers(service)
            assert len(workers) == 2, job
            os.kill(workers[0].pid, signal.SIGKILL)
            return
    raise AssertionError(f"the job ended before training: {client.get(job_id)}")


@pytest.fixture(scope="module")
def adapted(service: Service, files: Path, tiny_dir: Path) -> Adaptation:
    """A finished job, one of whose train workers was killed in the middle."""
    with Client(str(service.up_file["api_url"])) as client:
        job = client.create(body(tiny_dir, files))
        kill_one_train_worker(service, client, job.id)
        ended = service.wait_job(client, job.id)
        assert ended.status == "succeeded", client.logs(job.id)
        service.wait_served(client, NAME)
        return ended


@pytest.fixture(scope="module")
def chat(service: Service, adapted: Adaptation) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.up_file['api_url']}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture(scope="module")
def greedy_text(tiny_dir: Path) -> str:
    """What the target itself writes at T=0, through transformers."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, do_sample=False, max_new_tokens=20)
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def test_a_killed_train_worker_does_not_fail_the_job(service: Service, adapted: Adaptation) -> None:
    run = RunDir.of_job(adapted.id, service.home)
    trained = run.read_record(DraftCheckpoint, Stage.TRAIN)
    assert trained is not None
    assert trained.num_worker_restarts >= 1
    assert adapted.attempt == 1
    assert trained.best_simulated_acceptance_length >= trained.initial_simulated_acceptance_length
    assert trained.trainable_fraction <= 0.5


def test_every_stage_left_its_record_and_no_hidden_state_too_many(service: Service, adapted: Adaptation) -> None:
    run = RunDir.of_job(adapted.id, service.home)
    generated = run.read_record(SelfGenManifest, Stage.GENERATE)
    selected = run.read_record(SelectionManifest, Stage.SELECT)
    report = run.read_record(EvalReport, Stage.EVALUATE)
    assert generated is not None
    assert selected is not None
    assert report is not None
    assert generated.num_samples + len(generated.skipped) == 32
    assert selected.num_selected == round(generated.num_samples * 0.5)
    assert not list((run.root / "generate").glob("*.features.safetensors"))
    assert list((run.root / "select").glob("*.features.safetensors"))
    assert {row.temperature for row in report.acceptance} == {0.0, 1.0}
    assert report.lossless.num_identical == report.lossless.num_prompts
    assert len(list((run.root / "evaluate").glob("*.png"))) == 3


def test_the_served_text_is_the_targets_own(chat: openai.OpenAI, greedy_text: str) -> None:
    answer = chat.chat.completions.create(model=NAME, messages=QUESTION, temperature=0, max_tokens=20)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == greedy_text
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 20
    metrics = answer.model_extra["metrics"]["speculative_decoding"]  # type: ignore[index]
    assert 0 < metrics["num_draft_tokens"] <= metrics["num_spec_steps"] * metrics["num_spec_tokens"]
    assert sum(metrics["acceptance_histogram"]) == metrics["num_spec_steps"] > 0


def test_a_stream_says_the_same_and_ends_once(service: Service, chat: openai.OpenAI, greedy_text: str) -> None:
    options = {"include_usage": True}
    asked = {"model": NAME, "messages": QUESTION, "temperature": 0, "max_tokens": 20, "stream": True}
    chunks = list(chat.chat.completions.create(**asked, stream_options=options))  # type: ignore[call-overload]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == greedy_text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in {"stop", "length"}
    assert chunks[-1].usage.total_tokens > 0
    raw = httpx.post(f"{service.up_file['api_url']}/v1/chat/completions", json=asked, timeout=60).text
    assert raw.count("data: [DONE]") == 1
    assert raw.endswith("data: [DONE]\n\n")


@pytest.mark.usefixtures("adapted")
def test_its_pack_is_exported_and_downloaded(service: Service, tmp_path: Path) -> None:
    """The archive holds an export that reads back whole, and names no place of the service."""
    with Client(str(service.up_file["api_url"])) as client:
        body = {"pack": f"{NAME}@latest", "to": "vllm", "form": "dense", "num_prompts": 8}
        job = client.jobs.wait(client.exports.create(body).id, timeout_s=TEST_TIMEOUT_S)
        assert job.status == "succeeded", client.jobs.logs(job.id)
        made = client.exports.get(job.id)
        client.exports.download(job.id, tmp_path / "export.tar")
    with tarfile.open(tmp_path / "export.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    eda, _ = read_export(unpacked)
    assert f"{eda.source.replace('@', '-')}-vllm-dense" == unpacked.name
    assert made.exported_acceptance_length is not None
    assert made.serve_command is not None
    assert str(service.home) not in made.serve_command + (unpacked / "SERVE.txt").read_text()


def test_stops_seeds_and_raw_prompts(chat: openai.OpenAI, greedy_text: str) -> None:
    stop = greedy_text[2:4]
    cut = chat.chat.completions.create(  # type: ignore[call-overload]
        model=NAME, messages=QUESTION, temperature=0, max_tokens=20, stop=[stop]
    )
    assert cut.choices[0].message.content == greedy_text[: greedy_text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    same = [
        chat.completions.create(model=NAME, prompt="the user", max_tokens=12, temperature=1.0, seed=5).choices[0].text
        for _ in range(2)
    ]
    assert same[0] == same[1]
    by_ids = chat.completions.create(
        model=NAME,
        prompt=[[5, 6, 7], [8]],
        max_tokens=4,
        temperature=0,
        echo=True,
        logprobs=1,
        n=2,
        extra_body={"ignore_eos": True},
    )
    assert by_ids.usage is not None
    assert by_ids.usage.prompt_tokens == 4
    scores = [choice.logprobs for choice in by_ids.choices]
    assert [len(each.tokens or ()) for each in scores if each is not None] == [7, 7, 5, 5]


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"model": "nobody"}, 404, "model"),
        ({"temperature": 3}, 400, "temperature"),
        ({"n": 17}, 400, "n"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"messages": []}, 400, "messages"),
        ({"max_tokens": 100_000}, 400, "max_tokens"),
        ({"messages": [{"role": "user", "content": "the " * 3000}]}, 400, "messages"),
    ],
)
def test_bad_requests_name_the_parameter(
    service: Service, adapted: Adaptation, changes: dict[str, Any], status: int, param: str
) -> None:
    asked = {"model": NAME, "messages": QUESTION, "max_tokens": 4, **changes}
    for stream in (False, True):
        url = f"{service.up_file['api_url']}/v1/chat/completions"
        answer = httpx.post(url, json={**asked, "stream": stream}, timeout=60)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["param"] == param


def test_a_client_that_goes_away_frees_its_slot(service: Service, chat: openai.OpenAI) -> None:
    asked = {"model": NAME, "prompt": "the", "max_tokens": 400, "temperature": 1.0, "stream": True}
    for _ in range(100):  # more than may run and wait: without the slots back, the last ones would be refused
        with httpx.stream("POST", f"{service.up_file['api_url']}/v1/completions", json=asked, timeout=60) as stream:
            assert stream.status_code == 200
            next(stream.iter_bytes())
    assert chat.completions.create(model=NAME, prompt="the", max_tokens=4).choices[0].text is not None


def test_cancel_in_training_leaves_nothing(
    service: Service, client: Client, files: Path, tiny_dir: Path, adapted: Adaptation
) -> None:
    job = client.create(body(tiny_dir, files, seed=1, served_name="cancelled"))
    for seen in client.watch(job.id, interval_s=0.1):
        if seen.stage == "train":
            break
    began = time.monotonic()
    client.cancel(job.id)
    assert client.wait(job.id, timeout_s=60, interval_s=0.1).status == "cancelled"
    assert time.monotonic() - began < 10
    deadline = time.monotonic() + 10
    while train_workers(service):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert "cancelled" not in client.models()


def test_bad_jobs_are_refused_or_fail_with_the_field(
    service: Service, client: Client, files: Path, tiny_dir: Path, adapted: Adaptation
) -> None:
    empty, broken = files / "empty.jsonl", files / "broken.jsonl"
    empty.write_text("\n", encoding="utf-8")
    broken.write_text('{"prompt": "a"}\n{"prompt": \n', encoding="utf-8")
    pickled = files / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}", encoding="utf-8")
    (pickled / "pytorch_model.bin").write_bytes(b"x")
    refused = [
        ({"dataset": {"source": str(empty)}}, "dataset.source"),
        ({"dataset": {"source": str(broken)}}, "dataset.source"),
        ({"model": str(pickled)}, "model"),
        ({"base_draft": "tiny@9"}, "base_draft"),
        ({"base_draft": "smollm2-135m@2"}, "base_draft"),
        ({"model": "no/such-model"}, "model"),
    ]
    for changes, param in refused:
        with pytest.raises(ApiError) as caught:
            client.create(body(tiny_dir, files, **changes))
        assert (caught.value.status, caught.value.param) == (400, param)
    # Nobody can be asked here whether the hub has it; queued by force, the job finds out.
    job = service.wait_job(client, client.create(body(tiny_dir, files, model="no/such-model", force=True)).id)
    assert job.error is not None
    found = (job.status, job.error.code, job.error.param, job.attempt)
    assert found == ("failed", "target_not_found", "target.model", 1)


def test_a_brought_eagle3_draft_is_adapted_and_handed_back_as_it_came(
    service: Service, client: Client, files: Path, tiny_dir: Path
) -> None:
    """Import, adaptation to a tuned target, export: all but the feed-forward module leaves as it came."""
    target = load_target(TargetSpec(model=str(tiny_dir), dtype="float32"))
    source = write_published(files / "EAGLE3-tiny", random_eagle3(target))
    brought = client.drafts.create({"source": str(source), "model": str(tiny_dir), "name": "brought", "check": False})
    imported = client.jobs.wait(brought.id, timeout_s=TEST_TIMEOUT_S)
    assert (imported.status, imported.result) == ("succeeded", "brought@1"), imported.error
    small = {
        "target": {"dtype": "float32"},
        "train": {"backend": "torch", "num_workers": 1, "epochs": 2, "batch_size": 4, "private_width_fraction": 0.5},
        "evaluation": {"num_prompts": 2, "max_new_tokens": 8, "num_timed_prompts": 0, "threads": 1},
        "deploy": {"enabled": False},
    }
    asked = body(
        tiny_dir,
        files,
        base_draft="brought@1",
        served_name="handed-back",
        adapter=str(write_adapter(tiny_dir, files / "tuning", seed=1)),
        config={**CONFIG, **small},
    )
    job = service.wait_job(client, client.create(asked).id)
    assert (job.status, job.result_pack) == ("succeeded", "handed-back@1"), job.error
    out = files / "handed-back"
    options = ["--to", "hf", "--form", "dense", "--num-prompts", "8", "--out", str(out)]
    done = CliRunner().invoke(app, ["export", "handed-back@1", *options], env={"EDA_HOME": str(service.home)})
    assert done.exit_code == 0, done.output
    before, after = (load_file(directory / "model.safetensors") for directory in (source, out))
    assert before.keys() == after.keys()
    kept = [name for name in before if not name.startswith("midlayer.mlp.")]
    assert len(kept) == len(before) - 3
    for name in kept:
        assert torch.equal(before[name], after[name]), name
    # shared and private expert side by side: 48 inner units and half as many
    assert after["midlayer.mlp.gate_proj.weight"].shape == (72, 24)
    assert after["midlayer.mlp.down_proj.weight"].shape == (24, 72)
    assert torch.equal(after["midlayer.mlp.gate_proj.weight"][:48], before["midlayer.mlp.gate_proj.weight"])
    said = [json.loads((directory / "config.json").read_text()) for directory in (source, out)]
    assert said[1]["intermediate_size"] == 72
    unchanged = said[0].keys() - {"intermediate_size", "max_position_embeddings"}
    assert {key: said[1].get(key) for key in unchanged} == {key: said[0][key] for key in unchanged}
