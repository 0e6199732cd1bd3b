"""The shipped LoRA targets of SmolLM2 in one batch over one base, each against its own model merged by peft.

Float32 and T=0: the same tokens, or a first difference that is a near tie of the merged model's own logits, because
W x + B A x and (W + B A) x round differently. Two variants use committed packs, one the base draft.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eda_service.config.job import TargetSpec
from eda_service.decoding.build import load_drafts
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.fused.kinds import adapted_parts, shared_parts
from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.head import DraftHead
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.lossless import check_lossless
from eda_service.storage.published.registry import find_draft
from eda_service.targets.adapters.adapter import read_adapter
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.files.resolve import shipped_targets
from eda_service.targets.loader import Target, load_target

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PACKS = Path(__file__).resolve().parents[2] / "benchmarks" / "packs"
BASE_DRAFT = "smollm2-135m@3"
WITH_PACK = {"smollm2-135m-math": True, "smollm2-135m-medical": False, "smollm2-135m-code": True}
QUESTIONS = (
    "A pen costs 3 dollars and a book 12. What do 2 pens and 3 books cost?",
    "What are the symptoms of asthma?",
    "Write a Python function that reverses a string.",
    "Name three rivers.",
)


def load_variants(engine: Engine, target: Target) -> None:
    base_dir = find_draft(BASE_DRAFT)
    loaded = load_drafts(base_dir, None, target=target)
    base = DecodingDraft(shared_parts(loaded.draft), DraftHead(target.lm_head, loaded.vocab_W))
    for name, with_pack in WITH_PACK.items():
        decoding_draft = base
        if with_pack:
            pack = load_drafts(base_dir, PACKS / name, target=target)
            assert pack.trained is not None
            parts = adapted_parts(pack.draft, base.parts, pack.trained)
            decoding_draft = DecodingDraft(parts, DraftHead(target.lm_head, pack.vocab_W))
        adapter = read_adapter(shipped_targets() / name, dtype=target.dtype, device=target.device)
        engine.add_variant(name, adapter=adapter, decoding_draft=decoding_draft)


def test_each_variant_of_a_mixed_batch_says_what_its_merged_model_says() -> None:
    target = load_target(TargetSpec(model="smollm2-135m-instruct", dtype="float32"))
    prompts = [render_prompt(target.tokenizer, [{"role": "user", "content": text}]) for text in QUESTIONS]
    engine = Engine(target, num_draft_tokens=3, max_batch=12, max_tokens=128)
    load_variants(engine, target)
    params = SamplingParams(max_new_tokens=16)
    for name in WITH_PACK:
        for i, ids in enumerate(prompts):
            engine.submit(f"{name}/{i}", ids, params, variant=name)
    done = run_to_end(engine)
    stats = [outputs[-1].stats for outputs in done.values()]
    assert 0 < sum(each.num_accepted_tokens for each in stats) < sum(each.num_draft_tokens for each in stats)
    answers = {}
    for name in WITH_PACK:
        merged = load_target(TargetSpec(model=name, dtype="float32"))
        alone = Engine(merged, max_batch=len(prompts), max_tokens=128)
        for i, ids in enumerate(prompts):
            alone.submit(str(i), ids, params)
        wanted = {i: [t for o in outputs for t in o.new_token_ids] for i, outputs in run_to_end(alone).items()}
        got = [[t for o in done[f"{name}/{i}"] for t in o.new_token_ids] for i in range(len(prompts))]
        with torch.inference_mode():
            check = check_lossless(OwnEngine(merged), prompts, [wanted[str(i)] for i in range(len(prompts))], got)
        assert check.num_different == 0
        assert check.num_identical >= len(prompts) - 1
        answers[name] = got
    assert len({tuple(map(tuple, each)) for each in answers.values()}) == len(WITH_PACK)
