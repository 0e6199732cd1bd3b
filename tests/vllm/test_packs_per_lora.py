"""One vLLM with several LoRA adapters, whose requests draft with the pack of their adapter.

The oracle for every request is another vLLM with the export of its pack alone: each drafted token and what is accepted
in every round is the same, in a batch that mixes requests without an adapter and with either of two.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_packs import publish_adapted
from eagle3_drafts import eagle3_config, fit_eagle3, learn
from recording import MAX_TOKENS, NUM_DRAFTED, STOP_IDS, prompts
from tiny_models import register_draft, write_adapter

from benchmarks.engines import VLLM_PYTHON, vllm_environment
from eda_service.config.job import Mix, TargetSpec, TrainConfig
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import Eagle1Config
from eda_service.drafts.kinds import make_draft
from eda_service.export.export import ExportRequest, export_draft
from eda_service.export.files.eda_config import Destination, ExportForm
from eda_service.export.packed.packs_over import AdaptersPack
from eda_service.export.packed.several import PacksRequest, export_packs
from eda_service.export.vllm_plugin import PACK_WORKER
from eda_service.targets.loader import Target, load_target

pytestmark = pytest.mark.timeout(1200)

WORKER = Path(__file__).with_name("adapters_worker.py")
ADAPTERS: list[str | None] = [None, "math", "code"] * 4
BASE_W, MATH_W, CODE_W = torch.arange(3, 100), torch.arange(3, 90), torch.arange(20, 112)
NARROW, FUSED = TrainConfig(private_width_fraction=0.5), TrainConfig(train_fc=True)
KINDS = {
    "eagle": {"math": (NARROW, MATH_W), "code": (FUSED, CODE_W), "later": (FUSED, BASE_W), "twin": (NARROW, MATH_W)},
    "eagle3": {
        "math": (NARROW, None),
        "code": (TrainConfig(mix=Mix.SUM), None),
        "later": (TrainConfig(private_width_fraction=0.75), None),
        "twin": (NARROW, None),
    },
}
"""Packs of each kind of draft; `later` and `twin` are other versions of math's, the latter of the same shape."""
OF = {"later": "math", "twin": "math"}


@dataclass(frozen=True)
class Exports:
    """Directories of one kind.

    Attributes:
        alone: By pack; `base` is the base draft.
        several: With the packs math and code.
        fresh: The same with `later` in math's place from the start.
    """

    alone: dict[str, Path]
    several: Path
    fresh: Path


@pytest.fixture(scope="module")
def adapters(deep_targets: dict[str, Target], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    """Two adapters that change some of the target's answers."""
    place, model = tmp_path_factory.mktemp("adapters"), deep_targets["llama"].spec.model
    made = {}
    for seed, name in enumerate(("math", "code")):
        adapter = write_adapter(Path(model), place / name, seed=seed, std=0.1, r=8)
        made[name] = load_target(TargetSpec(model=model, adapter=str(adapter), dtype="float32"))
    return made


def export_kind(kind: str, target: Target, adapters: dict[str, Target], place: Path) -> Exports:
    """Everything of one kind of draft, over a base draft that has seen the answers of all three."""
    home, vocab_W = place / "home", BASE_W if kind == "eagle" else None
    if kind == "eagle3":
        draft: Draft = fit_eagle3(target, eagle3_config(target), None, prompts(), steps=1)
    else:
        shape = eagle3_config(target).model_dump(include=set(Eagle1Config.model_fields))
        torch.manual_seed(1)
        draft = make_draft(Eagle1Config.model_validate(shape | {"kind": "eagle1"}))
    draft.requires_grad_(True)
    for each in (target, *adapters.values()) * 4:  # in turns, so that it forgets none
        learn(draft, each, vocab_W, prompts(), steps=20)
    base_dir = register_draft(home, draft, target, vocab_W=vocab_W)
    packs = {}
    for name, (train, pack_W) in KINDS[kind].items():
        std = (0.1 if kind == "eagle3" else 0.04) * (1.5 if name == "twin" else 1.0)
        packs[name] = publish_adapted(
            home, base_dir, adapters[OF.get(name, name)], train, vocab_W=pack_W, std=std, name=name
        )
    alone = {name: place / f"alone-{name}" for name in ("base", *packs)}
    for name, out in alone.items():
        spec = target.spec if name == "base" else adapters[OF.get(name, name)].spec
        reference = "tiny" if name == "base" else packs[name]
        export_draft(ExportRequest(reference, Destination.VLLM, ExportForm.PLUGIN, out, target=spec), home=home)
    several = {"several": packs["math"], "fresh": packs["later"]}
    for out_name, math in several.items():
        named = [AdaptersPack("math", math, adapters["math"].spec.adapter)]
        named.append(AdaptersPack("code", packs["code"], adapters["code"].spec.adapter))
        out = place / out_name
        export_packs(PacksRequest("tiny", tuple(named), out, target.spec, places=3), home=home)
    return Exports(alone, place / "several", place / "fresh")


def job(
    target: Target, adapters: dict[str, Target], kind: str, draft: Path | None, *calls: list[Any], **more: Any
) -> str:
    """One vLLM: a pass before each of the calls, and one behind them."""
    settings: dict[str, Any] = {
        "model": target.spec.model,
        "dtype": "float32",
        "max_model_len": 256,
        "enforce_eager": True,
        "max_num_seqs": 16,
        "enable_prefix_caching": False,
        "enable_lora": True,
        "max_loras": 2,
        "max_lora_rank": 8,
        "worker_cls": PACK_WORKER,
    }
    if draft is not None:
        settings["speculative_config"] = {
            "method": kind,
            "model": str(draft),
            "num_speculative_tokens": NUM_DRAFTED,
        }
    line = {
        "settings": settings | more,
        "prompts": prompts(),
        "adapters": ADAPTERS,
        "loras": {name: each.spec.adapter for name, each in adapters.items()},
        "max_tokens": MAX_TOKENS,
        "stop_ids": STOP_IDS,
        "passes": [[], *calls],
    }
    return json.dumps(line)


def run(lines: dict[str, str], place: Path) -> dict[str, Any]:
    """Every job in one process; the passes of each, or its error's text."""
    (place / "jobs.jsonl").write_text("\n".join(lines.values()))
    with (place / "vllm.log").open("w") as log:
        done = subprocess.run(
            [str(VLLM_PYTHON), str(WORKER), str(place / "jobs.jsonl")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=vllm_environment(1),
            check=True,
        )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: answer.get("passes", answer.get("error")) for name, answer in zip(lines, answers, strict=True)}


@pytest.fixture(scope="module", params=list(KINDS))
def runs(
    request: pytest.FixtureRequest,
    deep_targets: dict[str, Target],
    adapters: dict[str, Target],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """Every vLLM of one kind of draft."""
    assert VLLM_PYTHON.exists(), f"no {VLLM_PYTHON}: run `make test-vllm`, which makes that environment"
    kind, target = request.param, deep_targets["llama"]
    place = tmp_path_factory.mktemp(f"packs-{kind}")
    exports = export_kind(kind, target, adapters, place)
    lines = {name: job(target, adapters, kind, out) for name, out in exports.alone.items()}
    later, code, twin = (str(exports.alone[name]) for name in ("later", "code", "twin"))
    lines["several"] = job(
        target,
        adapters,
        kind,
        exports.several,
        [["put_pack", ["math", later]], ["packs", []]],
        [["remove_pack", ["math"]], ["put_pack", ["unknown", code]], ["swap_draft", [code]]],
    )
    lines["fresh"] = job(target, adapters, kind, exports.fresh)
    lines["swapped"] = job(
        target, adapters, kind, exports.alone["math"], [["swap_draft", [twin]], ["swap_draft", [later]]]
    )
    lines["without"] = job(target, adapters, kind, None)
    lines["refused"] = job(target, adapters, kind, exports.several, worker_cls="auto")
    return run(lines, place)


def rows(answer: dict[str, Any], adapter: str | None) -> list[tuple[Any, ...]]:
    """What was drafted, accepted and answered for an adapter's requests."""
    parts = [answer[name] for name in ("proposed", "emitted", "token_ids")]
    return [row for row, of in zip(zip(*parts, strict=True), ADAPTERS, strict=True) if of == adapter]


def test_every_request_drafts_as_with_its_pack_alone(runs: dict[str, Any]) -> None:
    several = runs["several"][0]
    for adapter in (None, "math", "code"):
        own = runs[adapter or "base"][0]
        assert rows(several, adapter) == rows(own, adapter)
        accepted = sum(count - 1 for _, emitted, _ in rows(several, adapter) for count in emitted[1:])
        assert accepted > 0
        for other in {"base", "math", "code"} - {adapter or "base"}:  # the wrong pack would draft something else
            assert rows(runs[other][0], adapter) != rows(several, adapter)


def test_answers_are_the_targets_with_the_requests_adapter(
    runs: dict[str, Any], deep_targets: dict[str, Target], adapters: dict[str, Target]
) -> None:
    """By transformers and peft; also of requests without an adapter, which this vLLM answers with one by itself."""
    wanted = greedy(deep_targets["llama"], adapters)
    for name in ("without", "several", "fresh", "swapped", "base", "math", "code"):
        for each in runs[name]:
            assert each["token_ids"] == wanted, name


def greedy(target: Target, adapters: dict[str, Target]) -> list[list[int]]:
    """The answers of `generate`, each prompt with its adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    answers: dict[int, list[int]] = {}
    for adapter in (None, *adapters):
        model = AutoModelForCausalLM.from_pretrained(target.spec.model, dtype=torch.float32)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapters[adapter].spec.adapter)
        for i, (ids, of) in enumerate(zip(prompts(), ADAPTERS, strict=True)):
            if of == adapter:
                settings = {"do_sample": False, "max_new_tokens": MAX_TOKENS, "eos_token_id": STOP_IDS}
                out = model.generate(input_ids=torch.tensor([ids]), pad_token_id=0, **settings)
                answers[i] = out[0, len(ids) :].tolist()
    return [answers[i] for i in range(len(ADAPTERS))]


def test_a_pack_that_is_replaced_drafts_as_after_a_new_start(runs: dict[str, Any]) -> None:
    before, replaced, removed = runs["several"]
    fresh = runs["fresh"][0]
    for adapter in (None, "math", "code"):
        assert rows(replaced, adapter) == rows(fresh, adapter)
    assert rows(replaced, "math") != rows(before, "math")
    put, packs = replaced["calls"]
    assert (put["adapter"], put["source"], put["place"]) == ("math", "later@1", 1)
    assert [(each["adapter"], each["source"]) for each in packs] == [("math", "later@1"), ("code", "code@1")]
    assert rows(removed, "math") == rows(runs["base"][0], "math")
    assert rows(removed, "code") == rows(before, "code")
    assert removed["calls"][1]["place"] == 1
    assert "which are changed one by one; call put_pack" in removed["calls"][2]


def test_a_whole_draft_is_swapped(runs: dict[str, Any]) -> None:
    """By vLLM's own reload, where the new one has the same shape; it is refused otherwise, and nothing changes."""
    before, after = runs["swapped"]
    swapped, refused = after["calls"]
    assert swapped["source"] == "twin@1"
    assert "differs from the draft that runs in private" in refused
    for adapter in (None, "math", "code"):
        assert rows(before, adapter) == rows(runs["math"][0], adapter)
        assert rows(after, adapter) == rows(runs["twin"][0], adapter)
    assert after["proposed"] != before["proposed"]


def test_several_packs_need_the_worker(runs: dict[str, Any]) -> None:
    assert "start vLLM with --worker-cls eda_service.export.vllm_pack_worker.PackWorker" in runs["refused"]
    assert "packs for the adapters math, code" in runs["refused"]
