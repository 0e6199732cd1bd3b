"""Exports inside a real vLLM: round by round, what it accepts is what our engine accepts."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_packs import publish_adapted
from tiny_models import write_target

from benchmarks.engines import Vllm
from eda_service.config.job import Method, Mix, TrainConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import LoadedDraft, for_inference
from eda_service.drafts.head import DraftHead
from eda_service.export.dense import fold
from eda_service.export.export import ExportRequest, export_draft
from eda_service.export.files.directory import read_export
from eda_service.export.files.eda_config import Destination, ExportForm
from eda_service.targets.loader import Target

VOCAB_W = torch.arange(1, 111, 2)
PACKS = {
    "narrow expert, half the vocabulary": (TrainConfig(private_width_fraction=0.5), VOCAB_W),
    "sum": (TrainConfig(mix=Mix.SUM), None),
    "full_ft, half the vocabulary": (TrainConfig(method=Method.FULL_FT), VOCAB_W),
}
MAX_TOKENS = 24


def prompts(count: int = 12) -> list[list[int]]:
    """Of 2 to 12 ordinary tokens."""
    rng = random.Random(4)
    return [[rng.randrange(3, 112) for _ in range(rng.randint(2, 12))] for _ in range(count)]


def decoded(target: Target, loaded: LoadedDraft) -> tuple[list[list[int]], list[list[int]]]:
    """Our engine's answers, and how many tokens each step gave: the prefill's one, then the rounds'."""
    draft = for_inference(LoadedDraft(loaded.draft.to(target.dtype), loaded.vocab_W)).draft
    head = DraftHead(target.lm_head, loaded.vocab_W)
    engine = Engine(target, draft, head, num_draft_tokens=3, max_batch=12, max_tokens=100)
    for i, ids in enumerate(prompts()):
        engine.submit(str(i), ids, SamplingParams(max_new_tokens=MAX_TOKENS))
    done = run_to_end(engine)
    steps = [[output.new_token_ids for output in done[str(i)] if output.new_token_ids] for i in range(len(done))]
    return [[token for step in each for token in step] for each in steps], [list(map(len, each)) for each in steps]


def publish(home: Path, target: Target, name: str) -> str:
    train, vocab_W = PACKS[name]
    return publish_adapted(home, home / "drafts" / "tiny" / "1", target, train, vocab_W=vocab_W)


def export(home: Path, target: Target, reference: str, out: Path, form: ExportForm) -> Path:
    request = ExportRequest(reference, Destination.VLLM, form, out, target=target.spec)
    export_draft(request, home=home)
    return out


@pytest.mark.parametrize("name", PACKS)
def test_the_plugin_drafts_what_our_engine_drafts(
    name: str, wide_home: Path, wide_target: Target, start_vllm: Callable[..., Vllm], tmp_path: Path
) -> None:
    directory = export(
        wide_home, wide_target, publish(wide_home, wide_target, name), tmp_path / "draft", ExportForm.PLUGIN
    )
    _, loaded = read_export(directory)
    ids, emitted = decoded(wide_target, loaded)
    engine = start_vllm(wide_target.spec.model, directory)
    got = engine.ask(prompts(), temperature=0.0, max_tokens=MAX_TOKENS)
    assert got["token_ids"] == ids
    assert got["emitted"] == emitted
    assert max(count for each in emitted for count in each[1:]) > 1
    unlike = LoadedDraft(fold(loaded.draft, (1.0, 0.0)), None)  # neither private expert nor draft vocabulary
    assert decoded(wide_target, unlike)[1] != emitted


def test_the_dense_form_needs_no_plugin(
    wide_home: Path, wide_target: Target, start_vllm: Callable[..., Vllm], tmp_path: Path, monkeypatch: Any
) -> None:
    """With every plugin switched off, as in a vLLM that has never heard of this project."""
    monkeypatch.setenv("VLLM_PLUGINS", "")
    reference = publish(wide_home, wide_target, "narrow expert, half the vocabulary")
    directory = export(wide_home, wide_target, reference, tmp_path / "draft", ExportForm.DENSE)
    ids, emitted = decoded(wide_target, read_export(directory)[1])
    got = start_vllm(wide_target.spec.model, directory).ask(prompts(), temperature=0.0, max_tokens=MAX_TOKENS)
    assert (got["token_ids"], got["emitted"]) == (ids, emitted)


def test_another_target_is_refused_with_our_words(
    wide_home: Path, wide_target: Target, start_vllm: Callable[..., Vllm], tmp_path: Path
) -> None:
    directory = export(wide_home, wide_target, "tiny@1", tmp_path / "draft", ExportForm.PLUGIN)
    other = write_target(tmp_path / "other", "llama", head_dim=32, hidden_size=64)
    with pytest.raises(RuntimeError, match="vLLM ended"):
        start_vllm(str(other), directory)
    log = (tmp_path / "vllm-0.log").read_text()
    assert "the draft tiny@1 was made for" in log
    assert "the target has hidden size 64 and 112 tokens" in log
