"""EAGLE-3 against its equations written down a second time, token by token and in float64, in every setting that
checkpoints have; then through training, chains, trees, packs and files as any kind.

Shapes: T tokens, C width of the target's states side by side, D hidden, W draft vocabulary.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import answer, decode, speculative
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from eda_service.config.job import Method, SelfGenConfig, TrainConfig, TreeConfig
from eda_service.config.loss import DistributionLoss, LossConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.fused.kinds import adapted_parts, shared_parts, whole_parts
from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.decoding.proposal import Proposer
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import load_base_draft, load_pack, save_base_draft, save_pack
from eda_service.drafts.draft_config import parse_draft_config
from eda_service.drafts.eagle3 import Eagle3Draft
from eda_service.drafts.freezing import prepare, trained_state
from eda_service.drafts.kinds import make_draft
from eda_service.drafts.rotary import rotate
from eda_service.drafts.unroll import unroll
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.replay import Replay, transcribe
from eda_service.selfgen.generate import generate
from eda_service.selfgen.prompts import Prompt
from eda_service.targets.loader import Target
from eda_service.training.batches import collate
from eda_service.training.loss import DraftLoss

TREE = TreeConfig(size=7, depth=3, width=3)
SHAPE: dict[str, Any] = {
    "kind": "eagle3", "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "expert_width": 48,
    "vocab_size": 112, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "layers": [0, 1, 2], "draft_vocab_size": 90,
}  # fmt: skip
WIDER = {"hidden_size": 24, "target_hidden_size": 32, "own_embedding": True, "head_dim": 10}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "factor": 2.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "residual normed": {"norm_before_residual": True},
    "norm before fc": {"norm_before_fc": True, "norm_output": True},
    "fc norms": {"fc_norm": "each", "norm_before_residual": True, "norm_output": True},
    "one fc norm": {"fc_norm": "joint", "norm_before_fc": True, "fc_bias": True},
    "heads normed": {"qk_norm": True, "head_dim": 16, "qkv_bias": True, "o_bias": True},
    "wider target": WIDER | {"rope_scaling": YARN, "logit_scale": 0.5},
    "the target's head": {"own_head": False, "rope_scaling": LLAMA3, "own_embedding": True},
    "last state": {"layers": [], "draft_vocab_size": 112, "rope_scaling": LINEAR},
    "last state, no norm": {"layers": [], "has_hidden_norm": False},
}


def made(changes: dict[str, Any], seed: int = 0) -> Eagle3Draft:
    """A random draft whose norms and biases matter."""
    torch.manual_seed(seed)
    draft = make_draft(parse_draft_config(json.dumps(SHAPE | changes)))
    for name, parameter in draft.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)
        elif name.endswith("bias"):
            parameter.data.normal_(std=0.2)
        elif parameter.dim() == 2:
            parameter.data.normal_(std=parameter.shape[-1] ** -0.5)
    assert isinstance(draft, Eagle3Draft)
    return draft.requires_grad_(False)


class Naive:
    """The equations of draft-EAGLE-3 for one sequence: real states up to a position, then a chain on its own."""

    def __init__(self, draft: Eagle3Draft, embed: nn.Module) -> None:
        self.w = {name: tensor.double() for name, tensor in draft.state_dict().items()}
        self.c, table = draft.shape, draft.state_dict().get("embed_tokens.weight")
        self.table = (embed.weight if table is None else table).double()

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean() + 1e-5).sqrt() * self.w[name]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return self.w[f"{name}.weight"] @ x + self.w.get(f"{name}.bias", torch.zeros(()))

    def start(self, states_C: Tensor) -> Tensor:
        if not self.c.layers:
            return states_C
        x = self.norm(states_C, "input_norm.weight") if self.c.norm_before_fc else states_C
        if self.c.fc_norm == "joint":
            x = self.norm(x, "fc_norm.weight")
        if self.c.fc_norm == "each":
            x = torch.cat([self.norm(part, f"fc_norm.{i}.weight") for i, part in enumerate(x.chunk(3))])
        return self.linear(x, "fc")

    def turned(self, head_d: Tensor, position: int) -> Tensor:
        """By transformers' own cosines and sines."""
        scaling = self.c.rope_scaling
        rope = {"rope_type": "default"} if scaling is None else scaling.model_dump(exclude_none=True)
        config = LlamaConfig(
            head_dim=self.c.head_dim,
            hidden_size=self.c.head_dim,
            num_attention_heads=1,
            max_position_embeddings=64,
            rope_parameters={"rope_theta": self.c.rope_theta, **rope},
        )
        cos, sin = (x[0, 0].double() for x in LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor([[position]])))
        first, second = head_d.chunk(2)
        return head_d * cos + torch.cat([-second, first]) * sin

    def heads(self, x: Tensor, name: str, position: int | None) -> list[Tensor]:
        heads = list(self.linear(x, f"layers.0.self_attn.{name}_proj").split(self.c.head_dim))
        if self.c.qk_norm and name != "v":
            heads = [self.norm(head, f"layers.0.self_attn.{name}_norm.weight") for head in heads]
        return heads if position is None else [self.turned(head, position) for head in heads]

    def step(self, token: int, state: Tensor, position: int, seen: list[tuple[list[Tensor], list[Tensor]]]) -> Tensor:
        """The state after one token more; its keys and values are appended to what it sees."""
        e = self.norm(self.table[token], "layers.0.input_layernorm.weight")
        n = self.norm(state, "layers.0.hidden_norm.weight") if self.c.has_hidden_norm else state
        x = torch.cat([e, n])
        query = self.heads(x, "q", position)
        seen.append((self.heads(x, "k", position), self.heads(x, "v", None)))
        out = []
        for i, head in enumerate(query):
            j = i // (self.c.num_heads // self.c.num_kv_heads)
            scores = torch.stack([head @ keys[j] for keys, _ in seen]) / math.sqrt(self.c.head_dim)
            weights = torch.softmax(scores, dim=0)
            out.append(sum(weight * values[j] for weight, (_, values) in zip(weights, seen, strict=True)))
        u = (n if self.c.norm_before_residual else state) + self.linear(torch.cat(out), "layers.0.self_attn.o_proj")
        h = self.norm(u, "layers.0.post_attention_layernorm.weight")
        gate, up = self.linear(h, "layers.0.mlp.gate_proj"), self.linear(h, "layers.0.mlp.up_proj")
        return u + self.linear(gate / (1 + torch.exp(-gate)) * up, "layers.0.mlp.down_proj")

    def chain(self, tokens: list[int], states_TC: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
        """State fed back, and what the head reads, of each step after the real states; the tokens are given."""
        seen: list[tuple[list[Tensor], list[Tensor]]] = []
        num_real = len(tokens) - length
        for t in range(num_real):
            y = self.step(tokens[t + 1], self.start(states_TC[t].double()), t, seen)
        steps = []
        for k in range(length):
            read = self.norm(y, "norm.weight")
            fed_back = read if self.c.norm_output else y
            steps.append((fed_back, read))
            if k + 1 < length:
                y = self.step(tokens[num_real + 1 + k], fed_back, num_real + k, seen)
        return steps

    def logits(self, read: Tensor, rows_WD: Tensor) -> Tensor:
        rows = self.w["lm_head.weight"] if self.c.own_head else rows_WD.double()
        return rows @ read * (self.c.logit_scale if self.c.own_head else 1.0)


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
@torch.no_grad()
def test_training_and_decoding_compute_the_equations(changes: dict[str, Any], tiny_target: Target) -> None:
    draft, rng = made(changes), torch.Generator().manual_seed(1)
    width, vocab_W = draft.config.feature_width, torch.arange(draft.shape.draft_vocab_size) + 3
    if draft.shape.draft_vocab_size == 112:
        vocab_W = vocab_W - 3
    head = tiny_target.lm_head
    tokens, states_TC = torch.randint(3, 112, (9,), generator=rng), torch.randn(9, width, generator=rng)
    steps = 3
    naive = Naive(draft, tiny_target.embed).chain(tokens.tolist(), states_TC, steps)
    unrolled = list(unroll(draft, tiny_target.embed, tokens[None], states_TC[None], steps))
    num_real = len(tokens) - steps
    proposer = Proposer.of(draft, tiny_target.embed, draft.head(head, vocab_W), num_slots=1, max_tokens=32)
    fused = draft.head(head, vocab_W)
    state_11D = proposer.extend(tokens[None, 1 : num_real + 1], states_TC[None, :num_real], [0])[:, -1:]
    rows, _ = proposer._rows_of(None, 1)
    for k, (wanted, read) in enumerate(naive):
        if k:
            state_11D = proposer._step(
                rows, tokens[None, num_real + k : num_real + k + 1], state_11D, [num_real + k - 1]
            )
        if num_real - 1 < unrolled[k].shape[1]:
            torch.testing.assert_close(unrolled[k][0, num_real - 1].double(), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(state_11D[0, 0].double(), wanted, rtol=1e-4, atol=1e-4)
        logits_W = Naive(draft, tiny_target.embed).logits(read, head.rows_VD[vocab_W])
        mine = draft.logits(wanted.float(), head.take(vocab_W))
        torch.testing.assert_close(mine.double(), logits_W, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fused(wanted.float()[None])[0].double(), logits_W, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scaling", [None, LLAMA3, YARN, LINEAR], ids=["plain", "llama3", "yarn", "linear"])
def test_rotation_is_transformers(scaling: dict[str, Any] | None) -> None:
    config = parse_draft_config(json.dumps(SHAPE | {"rope_scaling": scaling}))
    rope = {"rope_type": "default"} if scaling is None else scaling
    llama = LlamaConfig(
        head_dim=8, hidden_size=8, num_attention_heads=1, max_position_embeddings=64,
        rope_parameters={"rope_theta": 10000.0, **rope},
    )  # fmt: skip
    x_1NLd, positions_1L = torch.randn(1, 2, 40, 8), torch.arange(40)[None]
    cos, sin = LlamaRotaryEmbedding(llama)(x_1NLd, positions_1L)
    first, second = x_1NLd.chunk(2, dim=-1)
    wanted = x_1NLd * cos + torch.cat([-second, first], dim=-1) * sin
    torch.testing.assert_close(rotate(x_1NLd, positions_1L, 10000.0, config.rope_scaling), wanted)


@dataclass
class World:
    """A target, what it wrote, and a draft of another width that was trained on it."""

    target: Target
    prompts: list[list[int]]
    draft: Eagle3Draft
    vocab_W: Tensor
    losses: list[float]

    @property
    def base(self) -> DecodingDraft:
        return DecodingDraft(shared_parts(self.draft), self.draft.head(self.target.lm_head, self.vocab_W))


@pytest.fixture(scope="module")
def world(tiny_target: Target) -> World:
    draft = made(WIDER | {"layers": [1, 2], "norm_before_residual": True, "rope_scaling": YARN}).requires_grad_(True)
    prompts = [Prompt(id=text, messages=[{"role": "user", "content": text}]) for text in "abcdefghijkl"]
    settings = SelfGenConfig(temperature=0.0, max_new_tokens=24)
    samples = generate(OwnEngine(tiny_target), prompts, settings, seed=0, captures=draft.config.captures).samples
    batch = collate(samples, max_tokens=64, dtype=torch.float32)
    answers = batch.token_ids_BL[batch.loss_mask_BL].unique()
    others = [token for token in range(112) if token not in answers.tolist()]
    vocab_W = torch.cat([answers, torch.tensor(others)])[:90].sort().values.int()
    loss = DraftLoss(draft, LossConfig(unroll_steps=2, distribution=DistributionLoss.TOKENS), vocab_W)
    optimizer, losses = torch.optim.Adam(draft.parameters(), lr=5e-3), []
    for _ in range(100):
        optimizer.zero_grad()
        total = loss(batch, tiny_target.embed, tiny_target.lm_head.take(vocab_W)).total
        total.backward()
        optimizer.step()
        losses.append(total.item())
    ids = [sample.token_ids[: sample.num_prompt_tokens] for sample in samples[:8]]
    return World(tiny_target, ids, draft.requires_grad_(False), vocab_W, losses)


def adapted(draft: Eagle3Draft, train: TrainConfig, seed: int) -> tuple[Eagle3Draft, frozenset[str]]:
    """With a private expert that has something to say, and the names of what is its own."""
    changed = prepare(copy.deepcopy(draft), train, seed=seed)
    assert isinstance(changed, Eagle3Draft)
    for name, tensor in changed.named_parameters():
        if tensor.requires_grad and ("private.down" in name or "fc" in name or "self_attn" in name):
            tensor.data.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed)) * 0.02)
    return changed, frozenset(trained_state(changed))


EDA = TrainConfig(method=Method.EDA, private_width_fraction=0.5)


@pytest.mark.parametrize(
    ("tree", "temperature"), [(None, 0.0), (TREE, 0.0), (TREE, 1.0)], ids=["chain", "tree", "sampled tree"]
)
def test_answers_are_the_targets_own_and_replay_counts_the_same(
    tree: TreeConfig | None, temperature: float, world: World
) -> None:
    assert world.losses[-1] < 0.2 * world.losses[0]
    engine = speculative(world.target, world.draft, vocab_W=world.vocab_W, tree=tree)
    params = SamplingParams(max_new_tokens=24, temperature=temperature)
    captures = world.draft.config.captures
    transcripts = transcribe(OwnEngine(world.target), world.prompts, params, batch_size=4, captures=captures)
    decoded = decode_all(engine, world.prompts, params)
    assert [each.token_ids[each.num_prompt_tokens :] for each in transcripts] == decoded.token_ids
    head = world.draft.head(world.target.lm_head, world.vocab_W)
    replay = Replay(world.draft, world.target.embed, head, num_draft_tokens=4, tree=tree, batch_size=4)
    counts = [each.num_accepted_tokens for each in replay.run(transcripts, temperature)]
    assert counts == [each.num_accepted_tokens for each in decoded.stats]
    assert sum(counts) > 5


@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_packs_over_one_imported_draft_in_one_batch(tree: TreeConfig | None, world: World) -> None:
    """Without and with fc and attention of their own, beside a whole draft and none: every answer is the target's."""
    base = world.base
    packed, trained = adapted(world.draft, EDA, 1)
    more, more_trained = adapted(world.draft, EDA.model_copy(update={"train_fc": True, "train_attention": True}), 2)
    whole = made(WIDER | {"layers": [1, 2], "norm_before_residual": True, "rope_scaling": YARN}, seed=5)
    parts = adapted_parts(packed, base.parts, trained)
    decoding_drafts = {
        "none": None,
        "base": base,
        "packed": DecodingDraft(parts, base.head),
        "more": DecodingDraft(adapted_parts(more, base.parts, more_trained), base.head),
        "whole": DecodingDraft(whole_parts(whole), whole.head(world.target.lm_head, world.vocab_W)),
    }
    assert parts.own_bytes(base.parts) == (3 * 24 * 24 + (0 if packed.ffn is None else 2 * 24)) * 4
    prompts, params = world.prompts, SamplingParams(max_new_tokens=20)
    wanted = decode(Engine(world.target, max_batch=8, max_tokens=120), prompts, [params] * 8)
    engine = Engine(world.target, max_batch=8, max_tokens=120, num_draft_tokens=4, tree=tree)
    for name, decoding_draft in decoding_drafts.items():
        engine.add_variant(name, decoding_draft=decoding_draft)
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, params, variant=list(decoding_drafts)[i % len(decoding_drafts)])
    done = run_to_end(engine)
    assert [answer(done[str(i)]) for i in range(8)] == wanted
    assert done["1"][-1].stats.num_accepted_tokens > 2


@pytest.mark.parametrize("options", [{}, {"train_fc": True}, {"train_attention": True}], ids=["private", "fc", "attn"])
@torch.no_grad()
def test_a_pack_starts_as_the_imported_draft_and_changes_what_its_options_name(
    options: dict[str, bool], world: World, tmp_path: Path
) -> None:
    save_base_draft(tmp_path, world.draft, world.vocab_W)
    base = load_base_draft(tmp_path, dtype=torch.float32)
    assert base.draft.config == world.draft.config
    train = EDA.model_copy(update={"train_fc": False, **options})
    fresh = prepare(copy.deepcopy(base.draft), train, seed=0)
    tokens_1L, states_1LC = torch.randint(3, 112, (1, 9)), torch.randn(1, 9, 64)
    for got, wanted in zip(
        unroll(fresh, world.target.embed, tokens_1L, states_1LC, 3),
        unroll(base.draft, world.target.embed, tokens_1L, states_1LC, 3),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    own = ("layers.0.mlp.private", "layers.0.mlp.gate")
    allowed = (
        own
        + (("fc",) if "train_fc" in options else ())
        + (("layers.0.self_attn",) if "train_attention" in options else ())
    )
    assert all(name.startswith(allowed) for name in trained_state(fresh))
    assert any(name.startswith(allowed[-1]) for name in trained_state(fresh))
    save_pack(tmp_path, fresh, train, None)
    loaded = load_pack(tmp_path, tmp_path, dtype=torch.float32)
    assert loaded.has_head_of_base
    for name, tensor in base.draft.state_dict().items():
        kept = name.replace("layers.0.mlp.", "layers.0.mlp.shared.")
        assert torch.equal(loaded.draft.state_dict()[kept], tensor)


@pytest.mark.parametrize("method", [Method.FULL_FT, Method.RETRAIN, Method.LORA])
def test_what_the_other_methods_leave_alone(method: Method, world: World) -> None:
    draft = prepare(copy.deepcopy(world.draft), TrainConfig(method=method), seed=0)
    trained, before = set(trained_state(draft)), world.draft.state_dict()
    assert not any("embed_tokens" in name for name in trained)
    assert torch.equal(draft.get_submodule("embed_tokens").weight, before["embed_tokens.weight"])
    if method is Method.LORA:
        assert not any("lm_head" in name for name in trained)
        assert any("fc.lora_A" in name for name in trained)
    else:
        assert "lm_head.weight" in trained
        assert torch.equal(draft.get_submodule("lm_head").weight, before["lm_head.weight"])
        assert torch.equal(draft.get_submodule("fc").weight, before["fc.weight"]) is (method is Method.FULL_FT)
