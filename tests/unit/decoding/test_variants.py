"""Variants in one batch: each request gets what its variant alone gives, before, during and after a swap.

Oracle: an engine of the variant's own over the same base and adapter, and for the target itself peft's merged model.

Shapes: V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import DraftMaker, answer, make_prompts
from tiny_models import write_adapter

from eda_service.config.job import Mix, TargetSpec, TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.fused.kinds import adapted_parts, shared_parts, whole_parts
from eda_service.decoding.fused.protocol import DecodingDraft, DraftParts
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import PrivateConfig
from eda_service.drafts.head import DraftHead
from eda_service.drafts.kinds import make_draft
from eda_service.errors import NotFoundError, TargetIncompatibleError
from eda_service.targets.adapters.adapter import Adapter, read_adapter
from eda_service.targets.loader import Target, load_target

pytestmark = pytest.mark.slow

SETTINGS: dict[str, Any] = {"num_draft_tokens": 4, "max_batch": 16, "max_tokens": 120}
TREE = TreeConfig(size=7, depth=3, width=3)


@dataclass
class Served:
    """What a variant is made of."""

    adapter: Adapter | None
    decoding_draft: DecodingDraft | None


@dataclass
class Group:
    """A target of the test's own, and variants over it."""

    target: Target
    model_dir: Path
    base: DraftParts
    variants: dict[str, Served]

    def engine(self, *names: str, **changes: Any) -> Engine:
        engine = Engine(self.target, **(SETTINGS | changes))
        for name in names:
            engine.add_variant(
                name, adapter=self.variants[name].adapter, decoding_draft=self.variants[name].decoding_draft
            )
        return engine


def adapted(base: Draft, seed: int, *, mix: Mix = Mix.SOFTMAX, width: int = 48, also: str = "none") -> Draft:
    """The base draft with a private expert whose gate and weights are random, and perhaps other weights moved."""
    draft = copy.deepcopy(base)
    draft.add_private(PrivateConfig(private_width=width, mix=mix))
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in draft.named_parameters():
        if ".private." in name or ".gate.proj" in name:
            parameter.data.normal_(std=0.05, generator=rng)
        elif also in name:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=rng)
    return draft.requires_grad_(False)


@pytest.fixture
def group(
    tmp_path: Path, new_target_dir: Callable[..., Path], make_fitted_draft: DraftMaker, new_draft: Callable[..., Draft]
) -> Group:
    """Three adapters and the base itself; packs of every form, one of another vocabulary, a whole draft, and none."""
    model_dir = new_target_dir(tmp_path / "model", "llama")
    target = load_target(TargetSpec(model=str(model_dir), dtype="float32"))
    adapters = []
    for i in range(3):
        path = write_adapter(model_dir, tmp_path / f"adapter-{i}", seed=i, r=4, std=0.1)
        adapters.append(read_adapter(path, dtype=target.dtype, device=target.device))
    draft, head = make_fitted_draft("llama"), DraftHead(target.lm_head, None)
    half = DraftHead(target.lm_head, torch.arange(0, 112, 2))
    base = shared_parts(draft)
    names = frozenset({"layers.0.mlp.private.up_proj.weight", "layers.0.mlp.gate.proj.weight"})
    gated = adapted_parts(adapted(draft, 1), base, names)
    summed = adapted_parts(adapted(draft, 2, mix=Mix.SUM, width=24, also="fc.weight"), base, names | {"fc.weight"})
    halved = adapted_parts(adapted(draft, 3, width=24), base, names)
    attention = {name for name, _ in draft.named_parameters() if ".self_attn." in name}
    attentive = adapted_parts(adapted(draft, 4, also=".self_attn."), base, names | attention)
    whole = whole_parts(new_draft(target, seed=9).requires_grad_(False))
    variants = {
        "plain": Served(None, DecodingDraft(base, head)),
        "gated": Served(adapters[0], DecodingDraft(gated, head)),
        "summed": Served(adapters[1], DecodingDraft(summed, half)),
        "halved": Served(adapters[0], DecodingDraft(halved, half)),
        "attentive": Served(adapters[1], DecodingDraft(attentive, head)),
        "whole": Served(adapters[2], DecodingDraft(whole, head)),
        "draftless": Served(adapters[2], None),
    }
    return Group(target, model_dir, base, variants)


def run(engine: Engine, requests: list[tuple[str, list[int], SamplingParams]]) -> list[list[int]]:
    for i, (variant, ids, params) in enumerate(requests):
        engine.submit(str(i), ids, params, variant=variant)
    done = run_to_end(engine)
    return [answer(done[str(i)]) for i in range(len(requests))]


def requests_of(names: list[str], **params: Any) -> list[tuple[str, list[int], SamplingParams]]:
    prompts = make_prompts(2 * len(names))
    settings = {"max_new_tokens": 24} | params
    return [
        (names[i % len(names)], ids, SamplingParams(**settings, seed=i if settings.get("temperature") else None))
        for i, ids in enumerate(prompts)
    ]


@pytest.mark.parametrize("settings", [{}, {"tree": TREE}], ids=["chain", "tree"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mixed_batch_gives_each_request_what_its_variant_alone_gives(
    settings: dict[str, Any], temperature: float, group: Group
) -> None:
    names = list(group.variants)
    requests = requests_of(names, temperature=temperature)
    engine = group.engine(*names, **settings)
    mixed = run(engine, requests)
    for i, request in enumerate(requests):
        assert run(group.engine(request[0], **settings), [request]) == [mixed[i]]
    drafted = [group.variants[name].decoding_draft is not None for name, _, _ in requests]
    assert any(drafted)
    assert not all(drafted)


def test_greedy_answers_are_the_merged_models(tmp_path: Path, group: Group) -> None:
    names = list(group.variants)
    requests = requests_of(names)
    mixed = run(group.engine(*names), requests)
    paths = {"gated": 0, "halved": 0, "summed": 1, "attentive": 1, "whole": 2, "draftless": 2, "plain": None}
    different = 0
    for i, (name, ids, params) in enumerate(requests):
        adapter = None if paths[name] is None else str(tmp_path / f"adapter-{paths[name]}")
        merged = load_target(TargetSpec(model=str(group.model_dir), adapter=adapter, dtype="float32"))
        assert run(Engine(merged, **SETTINGS), [("", ids, params)]) == [mixed[i]]
        different += run(Engine(group.target, **SETTINGS), [("", ids, params)]) != [mixed[i]]
    assert different >= len(requests) // 2  # most adapters change the answer, else this shows little


def test_a_swap_in_mid_stream_changes_no_token_and_frees_the_old_version(group: Group) -> None:
    """`gated` gets another pack and another adapter while its requests run."""
    requests = requests_of(["gated", "summed", "plain"], temperature=1.0, max_new_tokens=30)
    wanted = run(group.engine("gated", "summed", "plain"), requests)
    engine = group.engine("gated", "summed", "plain")
    for i, (name, ids, params) in enumerate(requests):
        engine.submit(str(i), ids, params, variant=name)
    outputs: dict[str, list[int]] = {}
    old = engine._variants["gated"]
    for step in range(200):
        for output in engine.step():
            outputs.setdefault(output.request_id, []).extend(output.new_token_ids)
        if step == 1:
            swapped = group.variants["whole"]
            engine.add_variant("gated", adapter=swapped.adapter, decoding_draft=swapped.decoding_draft)
            engine.remove_variant("plain")
            engine.submit("new", requests[0][1], requests[0][2], variant="gated")
            assert old.retired
            assert old.adapter is not None
    assert [outputs[str(i)] for i in range(len(requests))] == wanted
    assert outputs["new"] == run(group.engine("whole"), [("whole", *requests[0][1:])])[0]
    assert old.num_requests == 0
    assert old.adapter is None
    assert old.decoding_draft is None
    with pytest.raises(NotFoundError, match="gated, summed"):
        engine.submit("late", [5], SamplingParams(), variant="plain")


def test_cancelled_requests_let_go_of_their_version(group: Group) -> None:
    engine = group.engine("gated", max_batch=1)
    for i in range(3):
        engine.submit(str(i), [30, 40], SamplingParams(max_new_tokens=50), variant="gated")
    engine.step()
    old = engine._variants["gated"]
    engine.remove_variant("gated")
    for i, left in ((1, 2), (0, 1), (2, 0)):  # waiting, running, waiting
        engine.cancel(str(i))
        assert old.num_requests == left
    assert old.decoding_draft is None
    assert {output.finish_reason for output in engine.step()} == {"cancelled"}


def test_packs_share_what_they_did_not_train(group: Group) -> None:
    decoding_drafts = {
        name: served.decoding_draft for name, served in group.variants.items() if served.decoding_draft is not None
    }
    base, gated, summed = (decoding_drafts[name].parts for name in ("plain", "gated", "summed"))
    for packed in (gated, summed):
        assert packed.attention.qkv is base.attention.qkv
        assert packed.attention.out is base.attention.out
        assert packed.norm is base.norm
        assert packed.ffn is base.ffn
    assert gated.fc is base.fc
    assert summed.fc is not base.fc
    expert_bytes = 3 * 32 * 48 * 4
    assert decoding_drafts["gated"].own_bytes(decoding_drafts["plain"]) == expert_bytes + 2 * 32 * 4
    assert decoding_drafts["whole"].own_bytes(decoding_drafts["plain"]) > expert_bytes


def test_a_draft_of_another_shape_is_refused(group: Group, make_target: Callable[[str], Target]) -> None:
    engine = group.engine("plain")
    other = group.variants["plain"].decoding_draft
    assert other is not None
    config = other.parts.config.model_copy(update={"expert_width": 64})
    parts = whole_parts(make_draft(config).requires_grad_(False))
    with pytest.raises(TargetIncompatibleError, match="shape"):
        engine.add_variant("odd", decoding_draft=DecodingDraft(parts, other.head))
    with pytest.raises(NotFoundError):
        engine.submit("r", [5], SamplingParams(), variant="odd")
