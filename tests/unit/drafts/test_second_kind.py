"""A second kind of draft (`tiny_draft_kind`) through shards, training, chains, trees, variants, replay and packs.

Shapes: B rows, L positions, C width of a feature, D hidden, M tokens, W draft vocabulary.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import answer, decode, speculative
from tiny_draft_kind import TinyConfig, TinyDraft, tiny_kind
from tiny_models import draft_config
from torch import Tensor
from transformers import AutoModelForCausalLM

from eda_service.config.job import Method, SelfGenConfig, TrainConfig, TreeConfig
from eda_service.config.loss import DistributionLoss, LossConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.fused.kinds import adapted_parts, shared_parts, whole_parts
from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.decoding.proposal import Proposer
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import load_base_draft, load_pack, save_base_draft, save_pack
from eda_service.drafts.freezing import prepare, trained_state
from eda_service.drafts.shared_private import SharedPrivateFFN
from eda_service.drafts.unroll import unroll
from eda_service.engines.own import OwnEngine
from eda_service.errors import TargetIncompatibleError
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.replay import Replay, transcribe
from eda_service.export.dense import fold
from eda_service.export.forms import require_dialect
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt
from eda_service.storage.samples.shards import Sample, read_shard, write_shard
from eda_service.targets.decoder.attention import NAME
from eda_service.targets.decoder.fused import TransformersDecoder, rms_norm
from eda_service.targets.loader import Target
from eda_service.training.batches import Batch, collate
from eda_service.training.loss import DraftLoss
from eda_service.training.simulate import simulated_acceptance_length

TREE = TreeConfig(size=7, depth=3, width=3)
EDA = TrainConfig(method=Method.EDA, private_width_fraction=0.5)


@dataclass
class World:
    """A target, what it wrote, and a draft of the tiny kind that was trained on it."""

    target: Target
    samples: list[Sample]
    batch: Batch
    draft: TinyDraft
    vocab_W: Tensor
    losses: list[float]

    @property
    def prompts(self) -> list[list[int]]:
        return [sample.token_ids[: sample.num_prompt_tokens] for sample in self.samples[:8]]

    @property
    def base(self) -> DecodingDraft:
        return DecodingDraft(shared_parts(self.draft), self.draft.head(self.target.lm_head, self.vocab_W))


@pytest.fixture(scope="module")
def world(tiny_target: Target) -> Iterator[World]:
    with tiny_kind():
        config = TinyConfig(**draft_config(tiny_target).model_dump(), draft_vocab_size=90)
        prompts = [Prompt(id=text, messages=[{"role": "user", "content": text}]) for text in "abcdefghijkl"]
        settings = SelfGenConfig(temperature=0.0, max_new_tokens=24)
        samples = generate(OwnEngine(tiny_target), prompts, settings, seed=0, captures=config.captures).samples
        batch = collate(samples, max_tokens=64, dtype=torch.float32)
        answers = batch.token_ids_BL[batch.loss_mask_BL].unique()
        others = [token for token in range(112) if token not in answers.tolist()]
        vocab_W = torch.cat([answers, torch.tensor(others)])[:90].sort().values.int()
        torch.manual_seed(0)
        draft = TinyDraft(config)
        loss = DraftLoss(draft, LossConfig(unroll_steps=2, distribution=DistributionLoss.TOKENS), vocab_W)
        optimizer, losses = torch.optim.Adam(draft.parameters(), lr=5e-3), []
        for _ in range(100):
            optimizer.zero_grad()
            total = loss(batch, tiny_target.embed, tiny_target.lm_head.take(vocab_W)).total
            total.backward()
            optimizer.step()
            losses.append(total.item())
        yield World(tiny_target, samples, batch, draft.requires_grad_(False), vocab_W, losses)


def adapted(draft: TinyDraft, seed: int) -> tuple[TinyDraft, frozenset[str]]:
    """With a private expert that has something to say, and the names of what is its own."""
    made = prepare(copy.deepcopy(draft), EDA, seed=seed)
    assert isinstance(made, TinyDraft)
    for name, tensor in made.named_parameters():
        if ".private.down" in name:
            tensor.data.normal_(std=0.05)
    return made, frozenset(trained_state(made))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "transformers"])
@torch.inference_mode()
def test_captured_states_are_those_of_transformers(fused: bool, world: World) -> None:
    """Layers 0 and 1 as transformers' `hidden_states` has them; of the last, which it norms, the norm of ours."""
    target, ids_BL = world.target, torch.randint(3, 112, (2, 9), generator=torch.Generator().manual_seed(1))
    model = AutoModelForCausalLM.from_pretrained(target.spec.model, dtype=torch.float32).eval()
    wanted = model(ids_BL, output_hidden_states=True).hidden_states
    decoder = target.decoder if fused else TransformersDecoder(target_body(target))
    states = decoder_states(target, decoder, ids_BL, (0, 2, 1))
    embedded, last, first = states.draft_in.chunk(3, dim=-1)
    torch.testing.assert_close(embedded, wanted[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first, wanted[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rms_norm(last, target.decoder.norm), wanted[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states.head_in, wanted[2], rtol=1e-4, atol=1e-4)


def target_body(target: Target) -> Any:
    model = AutoModelForCausalLM.from_pretrained(target.spec.model, dtype=torch.float32, attn_implementation=NAME)
    return model.requires_grad_(False).eval().get_decoder()


def decoder_states(target: Target, decoder: Any, ids_BL: Tensor, captures: tuple[int, ...]) -> Any:
    with_decoder = dataclasses.replace(target, decoder=decoder)
    return with_decoder.forward(ids_BL, target.new_cache(2, 16), [0, 0], captures=captures)


def test_shards_keep_both_states(world: World, tmp_path: Path) -> None:
    write_shard(tmp_path, "shard-00000", world.samples)
    for kept, sample in zip(read_shard(tmp_path, "shard-00000"), world.samples, strict=True):
        assert kept.token_ids == sample.token_ids
        assert kept.features.shape == (len(kept.token_ids) - 1, 64)
        assert torch.equal(kept.features, sample.features)
        assert torch.equal(kept.head_in, sample.head_in)
        assert kept.head_in.shape == (len(kept.token_ids) - 1, 32)
        assert kept.answer_states().shape == (kept.num_answer_tokens - 1, 32)


def test_training_learns_and_its_loss_is_between_two_heads(world: World) -> None:
    """Oracle: the target's softmax over the draft's tokens against the draft's own norm and head."""
    assert world.losses[-1] < 0.2 * world.losses[0]
    target, draft, batch, ids_W = world.target, world.draft, world.batch, world.vocab_W.long()
    config = LossConfig(unroll_steps=1, regression_weight=1.0, cross_entropy_weight=1.0)
    losses = DraftLoss(draft, config, world.vocab_W)(batch, target.embed, target.lm_head.take(world.vocab_W))
    state_BSD = next(unroll(draft, target.embed, batch.token_ids_BL, batch.features_BLD, 1))
    mask_BS = batch.has_feature_BL[:, 1:-1] & batch.loss_mask_BL[:, 2:]
    wanted_MW = torch.softmax((batch.head_in[:, 1:-1][mask_BS] @ target.head_weight.T)[:, ids_W], dim=-1)
    state_MD = state_BSD[mask_BS]
    normed_MD = draft.norm.weight * state_MD / (state_MD.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    wanted = -(wanted_MW * torch.log_softmax(normed_MD @ draft.lm_head.weight.T, dim=-1)).sum(-1).mean()
    assert losses.cross_entropy.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert losses.regression.item() == 0.0
    assert losses.total.item() == pytest.approx(wanted.item(), rel=1e-4)
    length = simulated_acceptance_length(draft, [batch], target.embed, target.lm_head.take(world.vocab_W), depth=3)
    assert length > 1.5


@torch.no_grad()
def test_it_decodes_as_it_was_trained(world: World) -> None:
    """A base draft and packs over it, each on its own row, against the first unrolled step."""
    drafts = [(world.draft, frozenset[str]()), adapted(world.draft, 1), adapted(world.draft, 2)]
    base = world.base
    parts = [base.parts, *(adapted_parts(draft, base.parts, trained) for draft, trained in drafts[1:])]
    assert parts[1].own_bytes(base.parts) == (3 * 32 * 24 + 2 * 32) * 4
    decoding_drafts = [DecodingDraft(each, base.head) for each in parts]
    rng = torch.Generator().manual_seed(0)
    tokens_BL, features_BLC = torch.randint(3, 112, (3, 9), generator=rng), torch.randn(3, 9, 64, generator=rng)
    proposer = Proposer(base, world.target.embed, num_slots=3, max_tokens=32)
    got_BLD = proposer.extend(tokens_BL[:, 1:], features_BLC[:, :-1], [0] * 3, decoding_drafts=decoding_drafts)
    for row, (draft, _) in enumerate(drafts):
        wanted_BSD = next(unroll(draft, world.target.embed, tokens_BL, features_BLC, 1))
        torch.testing.assert_close(got_BLD[row, :-1], wanted_BSD[row], rtol=1e-4, atol=1e-4)
    assert (got_BLD[1] - got_BLD[2]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("tree", "temperature"), [(None, 0.0), (TREE, 0.0), (TREE, 1.0)], ids=["chain", "tree", "sampled tree"]
)
def test_answers_are_the_targets_own_and_replay_counts_the_same(
    tree: TreeConfig | None, temperature: float, world: World
) -> None:
    target, prompts = world.target, world.prompts
    engine = speculative(target, world.draft, vocab_W=world.vocab_W, tree=tree)
    params = SamplingParams(max_new_tokens=24, temperature=temperature)
    captures = world.draft.config.captures
    transcripts = transcribe(OwnEngine(target), prompts, params, batch_size=4, captures=captures)
    decoded = decode_all(engine, prompts, params)
    assert [each.token_ids[each.num_prompt_tokens :] for each in transcripts] == decoded.token_ids
    head = world.draft.head(target.lm_head, world.vocab_W)
    replay = Replay(world.draft, target.embed, head, num_draft_tokens=4, tree=tree, batch_size=4)
    counts = [each.num_accepted_tokens for each in replay.run(transcripts, temperature)]
    assert counts == [each.num_accepted_tokens for each in decoded.stats]
    assert sum(counts) > 5


@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_variants_in_one_batch(tree: TreeConfig | None, world: World) -> None:
    """A base, a pack over it, a whole draft and none; the first comes while requests without a draft run."""
    base, (packed, trained) = world.base, adapted(world.draft, 1)
    whole = TinyDraft(world.draft.config).requires_grad_(False)
    decoding_drafts = {
        "none": None,
        "base": base,
        "packed": DecodingDraft(adapted_parts(packed, base.parts, trained), base.head),
        "whole": DecodingDraft(whole_parts(whole), whole.head(world.target.lm_head, world.vocab_W)),
    }
    prompts, params = world.prompts, SamplingParams(max_new_tokens=20)
    wanted = decode(Engine(world.target, max_batch=8, max_tokens=120), prompts, [params] * 8)
    engine = Engine(world.target, max_batch=8, max_tokens=120, num_draft_tokens=4, tree=tree)
    engine.add_variant("none")
    engine.submit("early", prompts[0], params, variant="none")
    early = [output for _ in range(3) for output in engine.step()]
    for name, decoding_draft in decoding_drafts.items():
        engine.add_variant(name, decoding_draft=decoding_draft)
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, params, variant=list(decoding_drafts)[i % len(decoding_drafts)])
    done = run_to_end(engine)
    assert answer(early + done["early"]) == wanted[0]
    assert [answer(done[str(i)]) for i in range(8)] == wanted
    accepted = dict.fromkeys(decoding_drafts, 0)
    for i in range(8):
        accepted[list(decoding_drafts)[i % len(decoding_drafts)]] += done[str(i)][-1].stats.num_accepted_tokens
    assert accepted["none"] == 0
    assert accepted["base"] > 5


def test_drafts_and_packs_of_the_kind_are_read_again(world: World, tmp_path: Path) -> None:
    save_base_draft(tmp_path, world.draft, world.vocab_W)
    assert json.loads((tmp_path / "config.json").read_text())["kind"] == "tiny"
    base = load_base_draft(tmp_path, dtype=torch.float32)
    assert base.draft.config == world.draft.config
    assert base.vocab_W is not None
    assert torch.equal(base.vocab_W, world.vocab_W)
    packed, trained = adapted(world.draft, 1)
    save_pack(tmp_path, packed.to(torch.bfloat16), EDA, None)
    loaded = load_pack(tmp_path, tmp_path, dtype=torch.bfloat16)
    assert loaded.trained == trained
    assert loaded.has_head_of_base
    assert not base.has_head_of_base
    assert all(torch.equal(tensor, loaded.draft.state_dict()[name]) for name, tensor in packed.state_dict().items())


def test_folding_is_the_kinds_and_its_export_is_refused(world: World) -> None:
    """A sum of two experts is one of both widths, in whatever layer it stands."""
    packed, _ = adapted(world.draft, 1)
    ffn = packed.ffn
    assert isinstance(ffn, SharedPrivateFFN)
    hidden_ND = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    folded = fold(packed, (1.0, 1.0))
    wanted = ffn.scale * (ffn.shared(hidden_ND) + ffn.private(hidden_ND))
    torch.testing.assert_close(folded.ffn(hidden_ND), wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(folded.get_submodule("lm_head").weight, packed.lm_head.weight)
    with pytest.raises(TargetIncompatibleError, match="a draft of kind tiny has no form"):
        require_dialect(folded.config)
