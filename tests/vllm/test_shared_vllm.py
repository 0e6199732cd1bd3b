"""Two deployments on one base target that share a vLLM, as a user has them: `eda up`, two POSTs, the openai client.

The oracle of every answer is greedy decoding through transformers and peft; that of the counted rounds our own engine,
with the target that has the adapter merged and with the pack of that deployment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from adapted_packs import publish_adapted
from eagle3_drafts import learn
from peft import PeftModel
from recording import STOP_IDS, prompts
from running import Service
from test_vllm_deployment import READY_S, engines_of, wait_until
from tiny_models import draft_config, register_draft, write_adapter
from transformers import AutoModelForCausalLM

from eda_service.client import Client
from eda_service.config.job import TargetSpec, TrainConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.drafts.checkpoint import for_inference, load_pack
from eda_service.drafts.head import DraftHead
from eda_service.drafts.kinds import make_draft
from eda_service.storage.published.registry import find_pack
from eda_service.targets.loader import Target, load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

NAMES = ("math", "code")
NUM_TOKENS = 24
NARROW, WIDE = TrainConfig(private_width_fraction=0.5), TrainConfig(private_width_fraction=1.0)


@dataclass(frozen=True)
class World:
    """Targets by their adapter, and packs by name."""

    home: Path
    model: str
    targets: dict[str, Target]
    packs: dict[str, str]


@pytest.fixture(scope="module")
def world(wide_target: Target, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A base draft that has learned the answers with either adapter, and packs over it."""
    home, model = tmp_path_factory.mktemp("shared-home"), wide_target.spec.model
    targets = {}
    for seed, name in enumerate(NAMES):
        adapter = write_adapter(Path(model), tmp_path_factory.mktemp("adapter") / name, seed=seed, std=0.1, r=8)
        targets[name] = load_target(TargetSpec(model=model, adapter=str(adapter), dtype="float32"))
    torch.manual_seed(1)
    draft = make_draft(draft_config(wide_target)).requires_grad_(True)
    for target in (*targets.values(),) * 4:
        learn(draft, target, None, prompts(), steps=20)
    base_dir = register_draft(home, draft.requires_grad_(False), wide_target)
    made = {
        "math": ("math", NARROW, 0.05),
        "code": ("code", NARROW, 0.3),  # so far from math's that either counts other rounds
        "newer": ("math", NARROW, 0.2),
        "wider": ("code", WIDE, 0.2),
    }
    packs = {
        name: publish_adapted(home, base_dir, targets[of], train, name=name, std=std)
        for name, (of, train, std) in made.items()
    }
    return World(home, model, targets, packs)


def deploy(client: Client, world: World, name: str, **more: Any) -> None:
    settings = {"max_model_len": 128, "max_num_seqs": 4, "threads": 1, "enforce_eager": True}
    shared = {"max_adapters": 2, "max_adapter_rank": 8}
    adapter = world.targets[more.pop("of", name)].spec.adapter
    body = {"model": world.model, "adapter": adapter, "dtype": "float32", "name": name, "force": True, **more}
    client.deployments.create({**body, "engine": "vllm", "vllm": settings | shared})


@pytest.fixture(scope="module")
def service(world: World) -> Iterator[Service]:
    with Service(world.home, {"EDA_DISPATCH_INTERVAL_S": "0.2"}, allow=Path(world.model).parent) as running:
        with Client(str(running.up_file["api_url"])) as client:
            for name in NAMES:
                deploy(client, world, name, pack=world.packs[name])
            for name in NAMES:
                client.deployments.wait_ready(name, timeout_s=READY_S)
        yield running


@pytest.fixture
def asking(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.up_file['api_url']}/v1", api_key="none", max_retries=0)


def counted(asking: openai.OpenAI, name: str) -> list[tuple[str, int, int]]:
    """Text, rounds and accepted tokens of a deployment's answer to each prompt."""
    found = []
    for ids in prompts()[:4]:
        answer: Any = asking.completions.create(model=name, prompt=ids, temperature=0, max_tokens=NUM_TOKENS)
        told = answer.metrics["speculative_decoding"]
        found.append((answer.choices[0].text, told["num_spec_steps"], told["num_accepted_draft_tokens"]))
    return found


def expected(world: World, name: str, pack: str) -> list[tuple[str, int, int]]:
    """The same of transformers and of our own engine."""
    target = world.targets[name]
    plain = AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, target.spec.adapter)
    found = []
    for ids in prompts()[:4]:
        settings = {"do_sample": False, "max_new_tokens": NUM_TOKENS, "eos_token_id": STOP_IDS, "pad_token_id": 0}
        out = model.generate(input_ids=torch.tensor([ids]), **settings)
        text = str(target.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
        stats = own_stats(world, target, pack, ids)
        found.append((text, stats.num_rounds, stats.num_accepted_tokens))
    return found


def own_stats(world: World, target: Target, pack: str, ids: list[int]) -> RequestStats:
    """What our engine counts on a request."""
    base_dir = world.home / "drafts" / "tiny" / "1"
    loaded = for_inference(load_pack(base_dir, find_pack(pack, world.home), dtype=target.dtype))
    engine = Engine(
        target, loaded.draft, DraftHead(target.lm_head, loaded.vocab_W), num_draft_tokens=3, max_batch=1, max_tokens=100
    )
    engine.submit("r", ids, SamplingParams(max_new_tokens=NUM_TOKENS))
    return run_to_end(engine)["r"][-1].stats


def test_each_deployment_answers_with_its_adapter_and_drafts_with_its_pack(
    service: Service, asking: openai.OpenAI, world: World
) -> None:
    with Client(str(service.up_file["api_url"])) as client:
        groups = {client.deployments.get(name).group for name in NAMES}
    assert len(groups) == 1
    wanted = {name: expected(world, name, world.packs[name]) for name in NAMES}
    assert {name: counted(asking, name) for name in NAMES} == wanted
    assert all(sum(accepted for _, _, accepted in rows) > 0 for rows in wanted.values())
    # With the other one's pack the counts would be others, with the other one's adapter the texts.
    assert expected(world, "math", world.packs["code"]) != wanted["math"]
    assert [text for text, _, _ in wanted["math"]] != [text for text, _, _ in wanted["code"]]


def test_a_pack_is_swapped_while_vllm_runs(service: Service, asking: openai.OpenAI, world: World) -> None:
    before = engines_of(world.home)
    assert before
    with Client(str(service.up_file["api_url"])) as client:
        client.deployments.update("math", pack=world.packs["newer"], force=True)
        wait_until(lambda: client.deployments.get("math").loaded_pack == world.packs["newer"], READY_S)
        client.deployments.wait_ready("math", timeout_s=READY_S)
    assert engines_of(world.home) == before
    newer = expected(world, "math", world.packs["newer"])
    assert newer != expected(world, "math", world.packs["math"])
    assert counted(asking, "math") == newer
    assert counted(asking, "code") == expected(world, "code", world.packs["code"])


def test_one_adapter_too_many_is_said_and_has_room_once_another_is_gone(
    service: Service, asking: openai.OpenAI, world: World
) -> None:
    with Client(str(service.up_file["api_url"])) as client:
        deploy(client, world, "third", of="code", pack=world.packs["code"])
        wait_until(lambda: "one adapter too many" in str(client.deployments.get("third").reason), READY_S)
        assert counted(asking, "code") == expected(world, "code", world.packs["code"])
        client.deployments.delete("third")
        # A pack that is wider than the places of the draft that runs: vLLM starts again with both.
        before = engines_of(world.home)
        client.deployments.update("code", pack=world.packs["wider"], force=True)
        wait_until(lambda: client.deployments.get("code").loaded_pack == world.packs["wider"], READY_S)
        client.deployments.wait_ready("code", timeout_s=READY_S)
    assert not before & engines_of(world.home)
    assert counted(asking, "code") == expected(world, "code", world.packs["wider"])
    assert counted(asking, "math") == expected(world, "math", world.packs["newer"])
