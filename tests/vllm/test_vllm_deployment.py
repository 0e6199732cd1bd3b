"""A deployment on vLLM as a user has it: `eda up`, a POST, the openai client; a pack swap; a kill.

The oracle of every text is greedy decoding through transformers, that of the counted rounds our own engine.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from adapted_packs import publish_adapted
from running import Service
from transformers import AutoModelForCausalLM

from eda_service.client import Client
from eda_service.config.job import Mix, TrainConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.drafts.checkpoint import for_inference, load_pack
from eda_service.drafts.head import DraftHead
from eda_service.export.cache import exports_dir
from eda_service.storage.published.registry import find_pack
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.loader import Target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

QUESTION: list[Any] = [{"role": "user", "content": "the other one and the user"}]
NUM_TOKENS = 24
READY_S = 600


@pytest.fixture(scope="module")
def packs(wide_home: Path, wide_target: Target) -> list[str]:
    """Of two shapes."""
    base_dir, narrow, wide = wide_home / "drafts" / "tiny" / "1", TrainConfig(private_width_fraction=0.5), TrainConfig()
    return [
        publish_adapted(wide_home, base_dir, wide_target, narrow, name="one"),
        publish_adapted(wide_home, base_dir, wide_target, wide.model_copy(update={"mix": Mix.SUM}), name="two"),
    ]


@pytest.fixture(scope="module")
def service(wide_home: Path, wide_target: Target, packs: list[str]) -> Iterator[Service]:
    target_dir = Path(wide_target.spec.model)
    with Service(wide_home, {"EDA_DISPATCH_INTERVAL_S": "0.2"}, allow=target_dir.parent) as running:
        with Client(str(running.up_file["api_url"])) as client:
            settings = {"max_model_len": 256, "max_num_seqs": 4, "threads": 1, "enforce_eager": True}
            body = {"model": str(target_dir), "dtype": "float32", "name": "m", "pack": packs[0], "force": True}
            client.deployments.create({**body, "engine": "vllm", "vllm": settings})
            client.deployments.wait_ready("m", timeout_s=READY_S)
        yield running


@pytest.fixture(scope="module")
def prompt_ids(wide_target: Target) -> list[int]:
    return render_prompt(wide_target.tokenizer, QUESTION)


@pytest.fixture(scope="module")
def greedy(wide_target: Target, prompt_ids: list[int]) -> Callable[..., str]:
    model = AutoModelForCausalLM.from_pretrained(wide_target.spec.model, dtype=torch.float32)

    def text(num_tokens: int, **processors: Any) -> str:
        out = model.generate(
            torch.tensor([prompt_ids]), do_sample=False, max_new_tokens=num_tokens, eos_token_id=[0, 2], **processors
        )
        return str(wide_target.tokenizer.decode(out[0, len(prompt_ids) :], skip_special_tokens=True))

    return text


@pytest.fixture
def asking(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.up_file['api_url']}/v1", api_key="none", max_retries=0)


def ask(asking: openai.OpenAI, num_tokens: int = NUM_TOKENS) -> Any:
    return asking.chat.completions.create(model="m", messages=QUESTION, temperature=0, max_tokens=num_tokens)


def own_stats(home: Path, target: Target, pack: str, ids: list[int]) -> RequestStats:
    """What our engine counts on the same request."""
    loaded = for_inference(load_pack(home / "drafts" / "tiny" / "1", find_pack(pack, home), dtype=target.dtype))
    head = DraftHead(target.lm_head, loaded.vocab_W)
    engine = Engine(target, loaded.draft, head, num_draft_tokens=3, max_batch=1, max_tokens=100)
    engine.submit("r", ids, SamplingParams(max_new_tokens=NUM_TOKENS))
    return run_to_end(engine)["r"][-1].stats


def metrics(service: Service) -> dict[str, float]:
    text = httpx.get(f"{service.up_file['api_url']}/metrics", timeout=60).text
    return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)}


def engines_of(home: Path) -> set[int]:
    """vLLM's own processes under a home, from /proc."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            named = path.joinpath("cmdline").read_bytes().startswith(b"VLLM::")
            if named and f"EDA_HOME={home}".encode() in path.joinpath("environ").read_bytes():
                found.add(int(path.name))
        except OSError:
            continue
    return found


def wait_until(holds: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_it_answers_and_counts_as_our_engine_does(
    service: Service,
    asking: openai.OpenAI,
    greedy: Callable[..., str],
    wide_home: Path,
    wide_target: Target,
    packs: list[str],
    prompt_ids: list[int],
) -> None:
    before = metrics(service)
    answer = ask(asking)
    assert answer.choices[0].message.content == greedy(NUM_TOKENS)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt_ids), NUM_TOKENS)
    own = own_stats(wide_home, wide_target, packs[0], prompt_ids)
    counted = answer.metrics["speculative_decoding"]
    assert counted["num_spec_steps"] == own.num_rounds
    assert counted["num_accepted_draft_tokens"] == own.num_accepted_tokens
    assert counted["acceptance_histogram"] == own.accepted_histogram
    after = metrics(service)
    rose = {name: after[name] - before.get(name, 0.0) for name in after if 'model_name="m"' in name}
    assert rose['vllm:generation_tokens_total{model_name="m"}'] == NUM_TOKENS
    assert rose['vllm:spec_decode_num_accepted_tokens_total{model_name="m"}'] == own.num_accepted_tokens
    assert rose['eda_rounds_total{model_name="m"}'] == own.num_rounds


def test_a_stream_is_the_same_text_and_ends_once(
    service: Service, asking: openai.OpenAI, greedy: Callable[..., str]
) -> None:
    stream = asking.chat.completions.create(
        model="m", messages=QUESTION, temperature=0, max_tokens=NUM_TOKENS, stream=True, stop=["never there"]
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == greedy(NUM_TOKENS)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices].count("length") == 1


@pytest.mark.parametrize("suppresses", [False, True], ids=["repetition", "suppressed"])
def test_penalties_with_a_draft_are_those_of_generate(
    suppresses: bool, asking: openai.OpenAI, greedy: Callable[..., str], wide_target: Target
) -> None:
    plain = greedy(NUM_TOKENS)
    wanted: dict[str, Any] = {"repetition_penalty": 1.3}
    if suppresses:
        wanted = {"suppress_tokens": wide_target.tokenizer(plain)["input_ids"][:3]}
    answer = asking.chat.completions.create(
        model="m", messages=QUESTION, temperature=0, max_tokens=NUM_TOKENS, extra_body=wanted
    )
    assert answer.choices[0].message.content == greedy(NUM_TOKENS, **wanted)
    assert answer.choices[0].message.content != plain


def test_sampling_with_a_draft_is_refused_by_name(asking: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        asking.chat.completions.create(model="m", messages=QUESTION, max_tokens=4)
    assert refused.value.param == "temperature"
    assert "vLLM's CPU build" in str(refused.value)


def test_errors_are_the_ingress_s_own(asking: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        asking.completions.create(model="m", prompt=[5] * 300, temperature=0, max_tokens=4)
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError, match="outside 0"):
        asking.completions.create(model="m", prompt=[100_000], temperature=0, max_tokens=4)


def test_a_swap_ends_running_answers_first_and_a_killed_replica_leaves_nothing(
    service: Service, asking: openai.OpenAI, greedy: Callable[[int], str], wide_home: Path, packs: list[str]
) -> None:
    long, texts = 200, []
    thread = threading.Thread(target=lambda: texts.append(ask(asking, long).choices[0].message.content))
    thread.start()
    first = engines_of(wide_home)
    assert first
    with Client(str(service.up_file["api_url"])) as client:
        client.deployments.update("m", pack=packs[1], force=True)
        meanwhile, refused = [], []
        while client.deployments.get("m").loaded_pack != packs[1]:
            try:
                meanwhile.append(ask(asking, 1).choices[0].message.content)  # it waits while vLLM starts
            except openai.InternalServerError as error:  # it came between the drain and Serve's word of it
                refused.append((error.status_code, error.code, int(error.response.headers["retry-after"]) > 0))
            time.sleep(0.2)
        client.deployments.wait_ready("m", timeout_s=READY_S)
    thread.join(60)
    assert texts == [greedy(long)]
    assert set(meanwhile) == {greedy(1)}
    assert set(refused) <= {(503, "endpoint_unavailable", True)}
    assert ask(asking).choices[0].message.content == greedy(NUM_TOKENS)
    swapped = 'eda_pack_info{base_draft="tiny@1",model_name="m",pack="two@1"}'
    wait_until(lambda: metrics(service).get(swapped) == 1, 20)  # a replica that is slow to answer is left out
    assert len(list(exports_dir(wide_home).glob("draft-*"))) == 2
    second = engines_of(wide_home)
    assert second
    assert not first & second
    parents = {int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in second}
    for replica in parents - second:
        os.kill(replica, signal.SIGKILL)
    wait_until(lambda: not second & engines_of(wide_home), 20)
