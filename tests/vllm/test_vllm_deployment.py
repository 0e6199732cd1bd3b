"""A deployment on vLLM as a user has it: `eda up`, a POST, the openai client.

The oracle of every text is greedy decoding through transformers; the oracle of the counted rounds is our own engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch
from adapted_packs import publish_adapted
from running import Service
from transformers import AutoModelForCausalLM, AutoTokenizer

from eda_service.client import Client
from eda_service.config import Mix, TrainConfig
from eda_service.target.loader import Target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

QUESTION = [{"role": "user", "content": "the other one and the user"}]
NUM_TOKENS = 24
READY_S = 300


@pytest.fixture(scope="module")
def packs(wide_home: Path, wide_target: Target) -> list[str]:
    """Two versions of a pack with a gate, and one of another pack."""
    base_dir = wide_home / "drafts" / "tiny" / "1"
    return [
        publish_adapted(wide_home, base_dir, wide_target, TrainConfig(private_width_fraction=0.5), name="one"),
        publish_adapted(wide_home, base_dir, wide_target, TrainConfig(mix=Mix.SUM), name="two"),
    ]


@pytest.fixture(scope="module")
def service(wide_home: Path, wide_target: Target, packs: list[str]) -> Iterator[Service]:
    target_dir = Path(wide_target.spec.model)
    with Service(wide_home, {"EDA_DISPATCH_INTERVAL_S": "0.2"}, allow=target_dir.parent) as running:
        with Client(str(running.facts["api_url"])) as client:
            body = {
                "model": str(target_dir),
                "dtype": "float32",
                "name": "m",
                "pack": packs[0],
                "force": True,
                "engine": "vllm",
                "vllm": {"max_model_len": 256, "max_num_seqs": 4, "threads": 1, "enforce_eager": True},
            }
            client.deployments.create(body)
            client.deployments.wait_ready("m", timeout_s=READY_S)
        yield running


@pytest.fixture(scope="module")
def greedy(wide_target: Target) -> str:
    directory = wide_target.spec.model
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, do_sample=False, max_new_tokens=NUM_TOKENS, eos_token_id=[0, 2])
    return str(tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def asking(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.facts['api_url']}/v1", api_key="none", max_retries=0)


def test_it_answers_what_greedy_decoding_answers(asking: openai.OpenAI, greedy: str) -> None:
    answer = asking.chat.completions.create(model="m", messages=QUESTION, temperature=0, max_tokens=NUM_TOKENS)
    assert answer.choices[0].message.content == greedy
    print(answer)
