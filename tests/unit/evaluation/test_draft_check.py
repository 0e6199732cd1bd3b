"""The check of an imported draft: counts against a naive one and against decoding, and misread files.

One EAGLE-3 draft is trained on what a target of five layers and an odd rotation answers, under flags that are known;
then it is declared under others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from overfit_drafts import overfit_draft
from torch import Tensor, nn

from eda_service.config.job import TargetSpec
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams
from eda_service.draft_check import DraftCheck, Reading
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import Eagle3Config, RopeScaling, parse_draft_config
from eda_service.drafts.draft_shape import target_rope
from eda_service.drafts.kinds import make_draft
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.draft_check import check_draft, embedding_cosine, reading
from eda_service.evaluation.replay import Replay, Transcript, transcribe
from eda_service.evaluation.teacher_forced import agreement
from eda_service.targets.loader import Target, load_target

pytestmark = pytest.mark.slow

LAYERS, THETA, VOCAB = (1, 2, 4), 30.0, torch.arange(2, 112)
LLAMA3 = RopeScaling(
    rope_type="llama3", factor=8, original_max_position_embeddings=64, low_freq_factor=1, high_freq_factor=4
)


@dataclass
class World:
    """A target, prompts, and a draft whose flags are known."""

    target: Target
    prompts: list[list[int]]
    draft: Draft

    def check(self, draft: Draft, **more: Any) -> DraftCheck:
        loaded = LoadedDraft(draft, VOCAB)
        return check_draft(
            OwnEngine(self.target), loaded, self.prompts, **{"max_new_tokens": 28, "thorough": True} | more
        )

    def transcripts(self, captures: tuple[int, ...], count: int) -> list[Transcript]:
        params = SamplingParams(max_new_tokens=28)
        return transcribe(OwnEngine(self.target), self.prompts[:count], params, batch_size=8, captures=captures)


@pytest.fixture(scope="module")
def world(new_target_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    rope = {"rope_type": "default", "rope_theta": THETA}
    path = new_target_dir(tmp_path_factory.mktemp("five"), "llama", num_hidden_layers=5, rope_parameters=rope)
    target = load_target(TargetSpec(model=str(path), dtype="float32"))
    config = Eagle3Config(
        hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8, expert_width=48, vocab_size=112, rope_theta=THETA,
        rms_norm_eps=1e-5, layers=LAYERS, draft_vocab_size=len(VOCAB), norm_output=True,
    )  # fmt: skip
    draft, samples = overfit_draft(target, config, VOCAB, [3 * text for text in "abcdefghijklm"], steps=90, tokens=28)
    ids = [sample.token_ids[: sample.num_prompt_tokens] for sample in samples]
    return World(target, ids, draft)


def naive_hits(world: World, answer: Transcript, depth: int) -> list[list[bool]]:
    """By position, whether each drafted token is the answer's: every chain for itself, all of it at every step.

    The tokens of a chain are the answer's own, its states the draft's; a plain causal attention over both.
    """
    draft, ids = world.draft, torch.tensor(answer.token_ids)
    embeds_LD, start_LD = world.target.embed(ids), draft.start(answer.features_TD[None])[0]

    def causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    hits: list[list[bool]] = [[] for _ in range(depth)]
    for first in range(answer.num_prompt_tokens, len(ids) - 1):  # token `first` is the last that is known
        states = list(start_LD[:first])
        for step in range(depth):
            if first + step + 1 == len(ids):
                break
            count = len(states)
            out_LD = draft.step(
                embeds_LD[None, 1 : count + 1], torch.stack(states)[None], torch.arange(count)[None], causal
            )[0]
            said = int(VOCAB[draft.logits(out_LD[-1], world.target.lm_head).argmax()])
            hits[step].append(said == answer.token_ids[first + step + 1])
            states.append(out_LD[-1])
    return hits


def test_counts_are_those_of_a_naive_count_and_of_decoding(world: World) -> None:
    answers = world.transcripts(LAYERS, 3)
    target, draft = world.target, world.draft
    found = agreement(draft, target.embed, target.lm_head, VOCAB, answers, depth=5)
    by_answer = [naive_hits(world, each, 5) for each in answers]
    wanted = [[hit for hits in by_answer for hit in hits[step]] for step in range(5)]
    assert found.hits == tuple(map(sum, wanted))
    assert found.places == tuple(map(len, wanted))
    assert 0 < found.hits[4] < found.places[4]

    head = draft.head(target.lm_head, VOCAB)
    engine = Engine(target, draft, head, num_draft_tokens=5, max_batch=3, max_tokens=100)
    decoded = decode_all(engine, world.prompts[:3], SamplingParams(max_new_tokens=28))
    row = summarise("base_draft", 0.0, decoded.stats, num_draft_tokens=5)
    assert (found.num_rounds, found.acceptance_length) == (row.num_rounds, pytest.approx(row.acceptance_length))
    replayed = Replay(draft, target.embed, head, num_draft_tokens=5).run(answers)
    assert found.num_rounds == sum(each.num_rounds for each in replayed)


def test_the_true_flags_beat_every_misreading(world: World) -> None:
    found = world.check(world.draft)
    assert found.declared is not None
    assert not found.is_misread
    assert found.advice == f"as declared: {found.declared.numbers}"
    singles = [set(each.overrides) for each in found.others if len(each.overrides) == 1]
    assert singles == [{"layers"}, {"layers"}, {"norm_before_residual"}, {"norm_output"}, {"rope_theta"}]
    assert all(each.acceptance_length < 0.9 * found.declared.acceptance_length for each in found.others)
    answers = world.transcripts(LAYERS, 13)
    tokens = [token for each in answers for token in each.token_ids[each.num_prompt_tokens :]]
    assert found.coverage == pytest.approx(sum(token >= 2 for token in tokens) / len(tokens))
    assert (found.num_prompts, found.num_positions) == (len(answers), len(tokens) - len(answers))
    assert found.embedding_cosine is None
    assert world.check(world.draft, thorough=False).others == ()


MISREAD: dict[str, tuple[dict[str, Any], str]] = {
    "layers one lower": ({"layers": (0, 1, 3)}, "--set 'layers=[1,2,4]'"),
    "layers one higher": ({"layers": (2, 3, 5)}, "--set 'layers=[1,2,4]'"),
    "residual": ({"norm_before_residual": True}, "--set norm_before_residual=false"),
    "feedback": ({"norm_output": False}, "--set norm_output=true"),
    "plain rotation": ({"rope_theta": 1e4}, "--set rope_theta=30.0"),
    "stretched rotation": ({"rope_scaling": LLAMA3}, "--set rope_scaling=null"),
    "two of them": ({"layers": (0, 1, 3), "norm_output": False}, "--set 'layers=[1,2,4]' --set norm_output=true"),
}


@pytest.mark.parametrize(("declared", "wanted"), MISREAD.values(), ids=MISREAD)
def test_a_misread_file_is_told_how_it_was_meant(declared: dict[str, Any], wanted: str, world: World) -> None:
    found = world.check(reading(world.draft, declared))
    true = world.check(world.draft).declared
    assert found.best is not None
    assert true is not None
    assert found.best.command == wanted
    fields = {name: json.loads(value) for name, value in found.best.overrides.items()}
    read = reading(world.draft, declared).config.model_dump(mode="json") | fields
    assert parse_draft_config(read) == world.draft.config
    assert (found.best.agreement, found.best.acceptance_length) == (true.agreement, true.acceptance_length)
    assert found.advice.endswith(f"import it again with {wanted}")


@pytest.mark.parametrize("name", ["layers one lower", "feedback"])
def test_other_readings_are_looked_at_where_the_declared_one_is_poor(name: str, world: World) -> None:
    """Of a wrong feedback the first position knows nothing, but the second does."""
    found = world.check(reading(world.draft, MISREAD[name][0]), thorough=False)
    assert found.declared is not None
    assert found.declared.is_poor
    assert found.is_misread


def test_an_embedding_of_its_own_is_held_against_the_targets(world: World) -> None:
    """A table that the draft was not trained with: the target's is."""
    config = world.draft.config.model_copy(update={"own_embedding": True})
    stranger = make_draft(config)
    stranger.load_state_dict(world.draft.state_dict(), strict=False)
    table = stranger.get_submodule("embed_tokens")
    assert isinstance(table, nn.Embedding)
    found = world.check(stranger.requires_grad_(False))
    assert found.best is not None
    assert found.best.command == "--set own_embedding=false"
    rows = [
        (a @ b / (a.norm() * b.norm())).item() for a, b in zip(table.weight, world.target.embed.weight, strict=True)
    ]
    assert found.embedding_cosine == pytest.approx(sum(rows) / 112, abs=1e-4)
    assert found.sentences[1].startswith("its embedding is no copy of the target's")
    with torch.no_grad():
        table.weight.copy_(world.target.embed.weight)
    assert embedding_cosine(stranger, world.target.embed) == pytest.approx(1.0)
    assert not world.check(stranger).is_misread


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (
            {"hidden_size": 24, "target_hidden_size": 32, "own_embedding": True, "layers": (0, 5)},
            [{"norm_before_residual"}, {"norm_output"}, {"rope_theta"}],
        ),
        ({"layers": (), "has_hidden_norm": False}, [{"norm_output"}, {"rope_theta"}]),
        ({"layers": (0, 3), "rope_theta": 7.0, "own_embedding": True},
         [{"layers"}, {"norm_before_residual"}, {"norm_output"}, {"rope_theta"}, {"rope_theta"}, {"own_embedding"}]),
    ],
    ids=["narrower, from the first layer to the last", "no fc", "an own rotation and embedding"],
)  # fmt: skip
def test_only_what_the_tensors_allow_is_looked_at(shape: dict[str, Any], wanted: list[set[str]], world: World) -> None:
    config = world.draft.config.model_copy(update=shape)
    stranger = make_draft(type(config).model_validate(config.model_dump())).requires_grad_(False)
    found = check_draft(
        OwnEngine(world.target), LoadedDraft(stranger, VOCAB), world.prompts[:2], max_new_tokens=8, thorough=True
    )
    count = len(wanted)
    assert [set(each.overrides) for each in found.others[:count]] == wanted
    assert all(len(each.overrides) == 2 for each in found.others[count:])
    assert (found.embedding_cosine is None) == (config.hidden_size != 32 or not config.own_embedding)


def test_a_reading_shares_the_weights(world: World) -> None:
    other = reading(world.draft, {"norm_output": False})
    assert other.config.norm_output is False
    theirs = {name: tensor.data_ptr() for name, tensor in world.draft.named_parameters()}
    assert {name: tensor.data_ptr() for name, tensor in other.named_parameters()} == theirs
    assert reading(world.draft, {}) is world.draft


def test_an_eagle1_draft_has_its_rotation_alone(tiny_target: Target, make_fitted_draft: Callable[[str], Draft]) -> None:
    draft = make_fitted_draft("llama")
    prompts = [[3 + (7 * i + j) % 100 for j in range(1 + 5 * i % 23)] for i in range(9)]
    declared = LoadedDraft(reading(draft, {"rope_theta": 5e5}), None)
    found = check_draft(OwnEngine(tiny_target), declared, prompts, max_new_tokens=24, thorough=True)
    assert [each.overrides for each in found.others] == [{"rope_theta": "10000.0"}]
    truth = check_draft(OwnEngine(tiny_target), LoadedDraft(draft, None), prompts, max_new_tokens=24)
    assert truth.declared is not None
    assert found.others[0].acceptance_length == truth.declared.acceptance_length
    assert truth.coverage == 1.0


def test_no_answer_is_said(world: World) -> None:
    cut = dataclasses.replace(world.target, max_context=20)
    found = check_draft(OwnEngine(cut), LoadedDraft(world.draft, VOCAB), world.prompts, max_new_tokens=28)
    assert found.advice == (
        "not measured: the target answered none of 13 prompts with two tokens or more within its context of 20 tokens"
    )
    assert found.best is None
    assert check_draft(OwnEngine(cut), LoadedDraft(world.draft, VOCAB), []).declared is None


def test_what_is_said_of_numbers() -> None:
    poor = Reading(agreement=(0.12, 0.1), acceptance_length=1.13)
    noise = Reading(overrides={"norm_output": "true"}, agreement=(0.13, 0.1), acceptance_length=1.16)
    right = Reading(overrides={"layers": "[3,17,30]"}, agreement=(0.47, 0.4), acceptance_length=1.8)
    both = Reading(overrides={**right.overrides, **noise.overrides}, agreement=(0.48, 0.4), acceptance_length=1.85)
    said = DraftCheck(declared=poor, others=(noise, right, both), coverage=0.9).sentences
    assert said == (
        "as declared: 12% at the first position, 1.13 tokens a round; with layers=[3,17,30]: 47% at the first "
        "position, 1.80 tokens a round. If the file's makers meant that, import it again with --set 'layers=[3,17,30]'",
        "its vocabulary has 90% of the tokens that the target writes",
    )
    weak = DraftCheck(declared=poor, others=(noise,))
    assert not weak.is_misread
    assert "none of 1 other readings does clearly better" in weak.advice
    scaled = Reading(overrides={"rope_scaling": '{"factor":2.0}'}, agreement=(0.5,), acceptance_length=2.0)
    assert scaled.command == """--set 'rope_scaling={"factor":2.0}'"""


@pytest.mark.parametrize(
    ("rope", "wanted"),
    [
        ({"rope_type": "default", "rope_theta": 7.0}, (7.0, None)),
        ({"rope_theta": 5e5, **LLAMA3.model_dump(exclude_none=True)}, (5e5, LLAMA3)),
        ({"rope_theta": 9.0, "rope_type": "dynamic", "factor": 2.0}, (9.0, None)),
    ],
    ids=["plain", "llama3", "one that drafts do not have"],
)
def test_the_rotation_of_a_target(rope: dict[str, Any], wanted: tuple[float, RopeScaling | None]) -> None:
    from transformers import LlamaConfig

    assert target_rope(LlamaConfig(rope_parameters=rope, max_position_embeddings=512)) == wanted
