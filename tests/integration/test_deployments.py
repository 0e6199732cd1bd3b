"""Deployments for real: `eda up`, Ray Serve, a tiny target with and without a LoRA adapter, packs beside one draft.

The oracle of every text is greedy decoding through transformers, of the base and of peft's merged model.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from pack_files import put_pack
from peft import LoraConfig, PeftModel, get_peft_model
from running import Service
from tiny_models import fit_draft, register_draft
from transformers import AutoModelForCausalLM, AutoTokenizer
from waiting import TEST_TIMEOUT_S

from eda_service.client import ApiError, Client, Deployment
from eda_service.client.deployments import NotServedError
from eda_service.config.job import TargetSpec, TrainConfig
from eda_service.drafts.checkpoint import load_base_draft, save_pack
from eda_service.drafts.freezing import prepare
from eda_service.raycluster.token import auth_headers, token_path
from eda_service.targets.loader import load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(TEST_TIMEOUT_S)]

QUESTION = [{"role": "user", "content": "the other one and the user"}]
NUM_TOKENS = 24
LENGTHS = (2.0, 2.5, 1.9)  # what the versions of the pack `tuned` say they have measured


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def base_dir(target_dir: Callable[[str], Path]) -> Path:
    return target_dir("llama")


@pytest.fixture(scope="module")
def adapter_dir(base_dir: Path, files: Path) -> Path:
    """A LoRA adapter whose answers are not the base's."""
    torch.manual_seed(2)  # whose answer has no end-of-text token in it
    model = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    settings = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(model, settings).save_pretrained(files / "adapter")
    return files / "adapter"


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, base_dir: Path, adapter_dir: Path, target_dir: Callable[[str], Path]
) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    base = load_target(TargetSpec(model=str(base_dir), dtype="float32"))
    draft_dir = register_draft(home, fit_draft(base), base)
    tuned = load_target(TargetSpec(model=str(base_dir), adapter=str(adapter_dir), dtype="float32"))
    for seed, length in enumerate(LENGTHS):
        pack_dir = tmp_path_factory.mktemp("pack")
        train = TrainConfig()
        draft = prepare(load_base_draft(draft_dir, dtype=torch.float32).draft, train, seed=seed)
        save_pack(pack_dir, draft, train, None)
        put_pack(home, "tuned", length, files=pack_dir, target=tuned.fingerprint, base_draft="tiny@1")
    with Service(home, {"EDA_DISPATCH_INTERVAL_S": "0.2"}, allow=base_dir.parent) as running:
        yield running


@pytest.fixture(scope="module")
def greedy(base_dir: Path, adapter_dir: Path) -> dict[str, str]:
    """What base and merged model write at T=0, through transformers."""
    tokenizer = AutoTokenizer.from_pretrained(base_dir)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    texts = {}
    for name in ("plain", "tuned"):
        model = base if name == "plain" else PeftModel.from_pretrained(base, str(adapter_dir)).merge_and_unload()
        out = model.generate(**ids, do_sample=False, max_new_tokens=NUM_TOKENS, eos_token_id=[0, 2])
        texts[name] = str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    assert texts["plain"] != texts["tuned"]
    return texts


@pytest.fixture(scope="module")
def deployed(service: Service, base_dir: Path, adapter_dir: Path) -> None:
    """The base with its draft alone, and the tuned target with its pack: one group."""
    shared = {"model": str(base_dir), "dtype": "float32", "base_draft": "tiny@1"}
    with Client(str(service.up_file["api_url"])) as client:
        client.deployments.create({**shared, "name": "plain"})
        client.deployments.create({**shared, "name": "tuned", "adapter": str(adapter_dir), "pack": "tuned@1"})
        for name in ("plain", "tuned"):
            service.wait_served(client, name)


def ask(service: Service, model: str) -> httpx.Response:
    body = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": NUM_TOKENS}
    return httpx.post(f"{service.up_file['api_url']}/v1/chat/completions", json=body, timeout=60)


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def applications(service: Service) -> dict[str, Any]:
    url = f"{service.up_file['dashboard_url']}/api/serve/applications/"
    answer = httpx.get(url, headers=auth_headers(token_path(service.home)), timeout=60)
    found: dict[str, Any] = answer.json()["applications"]
    return found


def test_two_deployments_of_one_base_share_a_group_and_say_what_is_theirs(
    service: Service, client: Client, deployed: None, greedy: dict[str, str]
) -> None:
    plain, tuned = (client.deployments.get(name) for name in ("plain", "tuned"))
    assert plain.group == tuned.group
    assert list(applications(service)) == [f"eda-{plain.group}"]
    assert (plain.loaded_pack, tuned.loaded_pack, tuned.replicas.running) == (None, "tuned@1", 1)
    assert client.models() == ["plain", "tuned"]
    for name in ("plain", "tuned"):
        assert said(ask(service, name)) == greedy[name]
    url = f"{service.up_file['api_url']}/v1/models/tuned"
    assert httpx.get(url, timeout=30).json()["pack"] == "tuned@1"


def test_a_swap_changes_no_answer_and_fails_none(
    service: Service, client: Client, deployed: None, greedy: dict[str, str]
) -> None:
    answers: list[httpx.Response] = []
    stopping = threading.Event()

    def keep_asking() -> None:
        while not stopping.is_set():
            answers.append(ask(service, "tuned"))

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for pack in ("tuned@2", "tuned@1", "tuned@latest"):
            force = pack != "tuned@2"
            wanted = client.deployments.update("tuned", pack=pack, force=force)
            assert service.wait_served(client, "tuned").loaded_pack == wanted.pack
            before = len(answers)
            while len(answers) < before + 6:
                assert all(thread.is_alive() for thread in threads)
                time.sleep(0.05)
    finally:
        stopping.set()
        for thread in threads:
            thread.join(60)
    assert len(answers) > 18
    assert {said(answer) for answer in answers} == {greedy["tuned"]}


def test_a_worse_pack_is_refused_and_a_rollback_is_live(service: Service, client: Client, deployed: None) -> None:
    client.deployments.update("tuned", pack="tuned@2")
    with pytest.raises(ApiError, match=r"1\.900, below the 2\.500 of tuned@2") as caught:
        client.deployments.update("tuned", pack="tuned@latest")
    assert (caught.value.status, caught.value.code) == (409, "acceptance_regression")
    client.deployments.rollback("tuned", revision=1)
    ready = service.wait_served(client, "tuned")
    assert (ready.loaded_pack, ready.pack_ref) == ("tuned@1", "tuned@1")
    assert ready.revisions[0].reason == "rolled back to revision 1"


def test_a_pack_of_another_target_fails_and_the_old_state_goes_on_answering(
    service: Service, client: Client, deployed: None, greedy: dict[str, str]
) -> None:
    client.deployments.update("plain", pack="tuned@2")

    def failed() -> Deployment | None:
        found = client.deployments.get("plain")
        return found if found.state == "failed" else None

    found = service.wait_for(failed, "a failed deployment")
    assert found is not None
    assert found.reason is not None
    assert "was made for" in found.reason
    assert (found.pack, found.loaded_pack) == ("tuned@2", None)
    assert said(ask(service, "plain")) == greedy["plain"]
    assert said(ask(service, "tuned")) == greedy["tuned"]
    client.deployments.rollback("plain")
    assert service.wait_served(client, "plain").loaded_pack is None


def test_another_base_is_another_group_which_loads_and_goes(
    service: Service, client: Client, deployed: None, target_dir: Callable[[str], Path]
) -> None:
    unknown = ask(service, "other")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert "plain, tuned" in unknown.json()["error"]["message"]
    model = str(target_dir("qwen2"))
    options = ["--name", "other", "--no-draft", "--dtype", "float32", "--json"]
    made = service.cli("deployments", "create", model, *options)
    assert made.returncode == 0, made.stderr
    loading = ask(service, "other")
    if loading.status_code != 200:  # a quiet machine may have loaded it by now
        assert (loading.status_code, loading.json()["error"]["code"]) == (503, "endpoint_unavailable")
        assert "retry-after" in loading.headers
    ready = service.wait_served(client, "other")
    assert len(applications(service)) == 2
    assert ready.group != client.deployments.get("plain").group
    assert said(ask(service, "other"))
    listed = json.loads(service.cli("deployments", "ls", "--json").stdout)
    assert [(each["name"], each["state"]) for each in listed] == [
        ("other", "ready"), ("plain", "ready"), ("tuned", "ready"),
    ]  # fmt: skip
    assert service.cli("deployments", "rm", "other").returncode == 0
    assert ask(service, "other").status_code == 404
    wait_applications(service, 1)


def test_what_cannot_load_is_failed_at_its_first_failure_and_is_loaded_once_it_can_be(
    service: Service, client: Client, deployed: None, base_dir: Path, greedy: dict[str, str]
) -> None:
    """Its weights are damaged after the submit, which has looked at them."""
    directory = shutil.copytree(base_dir, base_dir.parent / "damaged")
    weights = (directory / "model.safetensors").read_bytes()
    client.deployments.create({"model": str(directory), "name": "damaged", "dtype": "float32", "base_draft": None})
    (directory / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(NotServedError, match=r"model\.safetensors"):
        client.deployments.wait_ready("damaged")
    wait_applications(service, 1)
    assert [each.type for each in client.deployments.events("damaged")] == ["load_failed"]
    assert num_loads(service, "damaged") == 1
    refused = ask(service, "damaged")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "deployment_failed")
    assert "model.safetensors" in refused.json()["error"]["message"]
    assert said(ask(service, "plain")) == greedy["plain"]
    (directory / "model.safetensors").write_bytes(weights)
    again = service.cli("deployments", "restart", "damaged", "--wait")
    assert again.returncode == 0, again.stderr
    assert said(ask(service, "damaged")) == greedy["plain"]
    assert num_loads(service, "damaged") == 1
    client.deployments.delete("damaged")
    wait_applications(service, 1)


def num_loads(service: Service, name: str) -> int:
    """How often replicas say in their logs that a model did not load."""
    logs = Path(service.up_file["ray_temp_dir"]).glob("r/session_latest/logs/worker-*.err")
    return sum(path.read_text().count(f"cannot serve {name}\n") for path in logs)


def test_replicas_follow_and_without_deployments_nothing_runs(service: Service, client: Client, deployed: None) -> None:
    client.deployments.update("plain", replicas=2)
    service.wait_for(lambda: client.deployments.get("plain").replicas.running == 2, "two replicas")
    group = client.deployments.update("plain", replicas={"min": 1, "max": 3}).group
    scaling = service.wait_for(lambda: scaling_of(service, group), "an autoscaling that Serve has taken over")
    assert scaling is not None
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 3)
    assert service.wait_served(client, "plain").replicas.running >= 1
    for name in ("plain", "tuned"):
        client.deployments.delete(name)
    wait_applications(service, 0)
    assert client.models() == []
    service.wait_for(lambda: client.health()["serve"] is None, "the dispatcher's next look")


def scaling_of(service: Service, group: str) -> dict[str, Any] | None:
    """The autoscaling that Serve has taken over for a group, if any."""
    listed = applications(service)[f"eda-{group}"]["deployments"]  # empty while Serve applies a change
    found: dict[str, Any] | None = listed.get("Endpoint", {"deployment_config": {}})["deployment_config"].get(
        "autoscaling_config"
    )
    return found


def wait_applications(service: Service, number: int) -> None:
    service.wait_for(lambda: len(applications(service)) == number, f"{number} applications")
