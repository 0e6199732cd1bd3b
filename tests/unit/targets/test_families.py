"""What is served is the model that was given: answers and log-probabilities of many families against transformers' own.

The table in docs/reference/families.md has a row for each of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_helpers import decode, speculative
from families import REFUSED, SERVED, write_family
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeAttention

from eda_service.config.job import TargetSpec, TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.draft import Draft
from eda_service.errors import TargetIncompatibleError
from eda_service.targets import fidelity, head
from eda_service.targets.checks.check import check_target
from eda_service.targets.decoder.attention import folded_attention
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.loader import Target, load_target

pytestmark = pytest.mark.slow

TABLE = Path(__file__).parents[3] / "docs" / "reference" / "families.md"
PROMPTS = [[5, 77, 31, 8, 60], list(range(20, 50)), [3]]


def load(directory: Path) -> Target:
    return load_target(TargetSpec(model=str(directory), dtype="float32"))


def reference(directory: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return model.requires_grad_(False).eval()


def assert_greedy(model: Any, target: Target, prompts: list[list[int]], answers: list[list[int]], length: int) -> None:
    """Check that each token is the likeliest one after those before it, by one forward of transformers per answer."""
    for ids, answer in zip(prompts, answers, strict=True):
        logits_LV = model(torch.tensor([ids + answer])).logits[0]
        assert answer == logits_LV[len(ids) - 1 : -1].argmax(-1).tolist()
        ends = [i for i, token in enumerate(answer) if token in target.stop_token_ids]
        assert ends in ([], [len(answer) - 1])
        assert ends or len(answer) == length


@pytest.mark.parametrize("family", SERVED)
def test_answers_are_those_of_transformers(family: str, tmp_path: Path, new_draft: Callable[..., Draft]) -> None:
    """Greedy, float32, token by token: without a draft, and with one whose tokens the target verifies."""
    target, model = load(write_family(tmp_path, family)), reference(tmp_path)
    params = [SamplingParams(max_new_tokens=10)] * len(PROMPTS)
    plain = Engine(target, num_draft_tokens=3, max_batch=4, max_tokens=120)
    answers = decode(plain, PROMPTS, params)
    assert_greedy(model, target, PROMPTS, answers, 10)
    assert decode(speculative(target, new_draft(target)), PROMPTS, params) == answers


WINDOWED: dict[str, dict[str, Any]] = {
    "cohere2": {},
    "exaone4": {},
    "gemma2": {},
    "gemma3_text": {},
    "gpt_oss": {},
    "ministral": {},
    "mistral": {},
    "mixtral": {},
    "olmo3": {},
    "phi3": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 1},
    "starcoder2": {"use_sliding_window": True},
}


@pytest.mark.parametrize("family", WINDOWED)
def test_layers_look_back_over_their_window(family: str, tmp_path: Path, new_draft: Callable[..., Draft]) -> None:
    """A window of 8, up to 42 positions: prefills, tokens, verified drafts and trees see what transformers' do."""
    target = load(write_family(tmp_path, family, sliding_window=8, **WINDOWED[family]))
    assert target.max_context == 512
    params = [SamplingParams(max_new_tokens=12)] * len(PROMPTS)
    plain = Engine(target, num_draft_tokens=3, max_batch=4, max_tokens=120)
    answers = decode(plain, PROMPTS, params)
    assert_greedy(reference(tmp_path), target, PROMPTS, answers, 12)
    assert decode(plain, PROMPTS[:1], params[:1]) == answers[:1]
    for tree in (None, TreeConfig(size=6, depth=3, width=2)):
        assert decode(speculative(target, new_draft(target), tree=tree), PROMPTS, params) == answers


def test_a_window_that_the_family_does_not_use_is_none(tmp_path: Path) -> None:
    """Llama's forward attends to everything, whatever `sliding_window` its config carries along; the probe at load has
    twelve tokens and does not notice a window of 16.
    """
    target, model = load(write_family(tmp_path, "llama", sliding_window=16)), reference(tmp_path)
    ids = list(PROMPTS[1])
    for _ in range(10):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    plain = Engine(target, num_draft_tokens=3, max_batch=4, max_tokens=120)
    assert decode(plain, PROMPTS[1:2], [SamplingParams(max_new_tokens=10)]) == [ids[len(PROMPTS[1]) :]]


@pytest.mark.parametrize("family", ["cohere", "gemma2", "granite", "phimoe", "llama"])
def test_logprobs_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    """Where something stands behind the head, log-probabilities show it although the most likely token is the same."""
    target, model = load(write_family(tmp_path, family)), reference(tmp_path)
    engine = Engine(target, num_draft_tokens=3, max_batch=4, max_tokens=120)
    engine.submit("r", PROMPTS[1], SamplingParams(max_new_tokens=1, num_logprobs=5, score_prompt=True))
    (output, *_) = run_to_end(engine)["r"]
    wanted_LV = torch.log_softmax(model(torch.tensor([PROMPTS[1]])).logits[0], dim=-1)
    assert output.prompt_logprobs is not None
    for place, scored in enumerate(output.prompt_logprobs):
        assert scored.logprob == pytest.approx(float(wanted_LV[place, PROMPTS[1][place + 1]]), abs=1e-3)


@pytest.mark.parametrize("family", REFUSED)
def test_what_this_engine_cannot_drive_is_refused_without_its_weights(family: str, tmp_path: Path) -> None:
    resolved = resolve_target(TargetSpec(model=str(write_family(tmp_path, family))))
    with pytest.raises(TargetIncompatibleError) as caught:
        check_target(resolved)
    assert caught.value.param == "target.model"
    assert str(tmp_path) in caught.value.message


def test_every_family_has_its_row() -> None:
    table = TABLE.read_text().split("## Files")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \| (?:yes|refused)", table, re.M)) == sorted([*SERVED, *REFUSED])


def test_a_head_that_does_something_else_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The net under every family nobody has thought of: here the scale behind the head is left out."""
    directory = write_family(tmp_path, "granite")
    real = head.lm_head_of
    monkeypatch.setattr("eda_service.targets.loader.lm_head_of", lambda model: head.LmHead(real(model).rows_VD))
    with pytest.raises(TargetIncompatibleError, match="decoded as another model: its logits and ours differ by"):
        load(directory)


def test_a_window_beyond_the_tokens_of_the_check_is_noticed(tmp_path: Path) -> None:
    """PhiMoE's window stands in its mask alone; 12 tokens do not reach it, and answers were wrong from the 64th on."""
    with pytest.raises(TargetIncompatibleError, match="where a layer sees a window of them only differ by"):
        load(write_family(tmp_path / "a", "phimoe", sliding_window=64))
    target = load(write_family(tmp_path / "b", "phimoe", sliding_window=512))
    assert target.config.sliding_window == target.max_context == 512  # as it was, and never reached


def test_a_rotation_that_goes_by_the_longest_row_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The net under the limit of LongRoPE's context: here the limit is left out."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 64,
    }
    directory = write_family(tmp_path, "llama", rope_parameters=rope)
    assert load(directory).max_context == 64
    monkeypatch.setattr("eda_service.targets.loader.max_context_of", lambda config: config.max_position_embeddings)
    with pytest.raises(TargetIncompatibleError, match="beside a row at the context's end differ by"):
        load(directory)


def test_positions_taken_from_the_cache_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 4 scales its queries by the cache's length, from 8192 tokens on; slots have a length each."""
    directory, real = write_family(tmp_path, "qwen3_moe"), Qwen3MoeAttention.forward

    def tempered(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        seen = 0 if cache is None else cache.get_seq_length(self.layer_idx)
        out, weights = real(self, hidden_states, *args, **kwargs)
        return out * (1 + seen // 8192), weights

    monkeypatch.setattr(Qwen3MoeAttention, "forward", tempered)
    with pytest.raises(TargetIncompatibleError, match="its logits and ours differ by"):
        load(directory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("place", ["near", "far", "beside"])
def test_a_difference_above_rounding_is_refused(dtype: torch.dtype, place: str) -> None:
    own_1LV = torch.randn(1, fidelity.NUM_TOKENS, 40, generator=torch.Generator().manual_seed(0))
    own, tolerance = fidelity.Logits(own_1LV, own_1LV, own_1LV), fidelity._TOLERANCE[dtype]

    def difference(by: float) -> float:
        shifts = {name: by * float(own_1LV.std()) if name == place else 0.0 for name in ("near", "far", "beside")}
        return fidelity.require_equal(
            own,
            lambda ids_1L, start: own_1LV[:, start : start + ids_1L.shape[1]] + shifts["near"],
            lambda ids_BL, positions_BL: torch.cat([own_1LV + shifts["beside"], own_1LV + shifts["far"]]),
            [],
            vocab_size=40,
            max_context=64,
            dtype=dtype,
            name="m",
        )

    assert (difference(0.5 * tolerance) > 0) is (place == "near")
    for wrong in (2 * tolerance, float("nan")):
        with pytest.raises(TargetIncompatibleError):
            difference(wrong)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    """Here of a token that the check of the logits does not read."""
    token = next(id_ for id_ in range(3, 100) if id_ not in fidelity.probe_ids(112))
    rewrite(
        write_family(tmp_path, "qwen2"), lambda t: {**t, EMBED: t[EMBED].index_fill(0, torch.tensor(token), torch.inf)}
    )
    with pytest.raises(TargetIncompatibleError, match=f"not finite: {EMBED}"):
        load(tmp_path)


def test_an_unknown_argument_of_attention_is_refused() -> None:
    tensors = [torch.randn(1, 2, 3, 4) for _ in range(3)]
    folded_attention(torch.nn.Identity(), *tensors, None, dropout=0.0, sliding_window=None, softclip=None)
    with pytest.raises(TargetIncompatibleError, match="softclip"):
        folded_attention(torch.nn.Identity(), *tensors, None, softclip=3.0)


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = directory / "model.safetensors"
    changed = change(load_file(path))
    save_file({name: tensor.contiguous() for name, tensor in changed.items()}, path, metadata={"format": "pt"})


EMBED = "model.embed_tokens.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: {name: tensor for name, tensor in t.items() if name != DOWN}, f"missing: {DOWN}"),
        (lambda t: {f"_orig_mod.{name}": tensor for name, tensor in t.items()}, "'_orig_mod.' in front of its name"),
        (lambda t: {**t, "model.layers.9.mlp.down_proj.weight": t[DOWN].clone()}, "not of this model: model.layers.9."),
        (lambda t: {**t, DOWN: t[DOWN][:, :-1]}, DOWN),
        (lambda t: {name: tensor for name, tensor in t.items() if "norm" not in name}, "missing: "),
    ],
)
def test_a_checkpoint_that_does_not_cover_the_model_is_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], told: str
) -> None:
    rewrite(write_family(tmp_path, "qwen2", tie_word_embeddings=False), change)
    with pytest.raises(TargetIncompatibleError) as caught:
        load(tmp_path)
    assert told in caught.value.message


@pytest.mark.parametrize("changed", [False, True])
def test_a_tensor_in_two_files_is_the_same_in_both(changed: bool, tmp_path: Path) -> None:
    """transformers takes the last one it reads, whatever the index says."""
    path = write_family(tmp_path, "qwen2") / "model.safetensors"
    tensors = load_file(path)
    names = {name: "a.safetensors" if name < DOWN else "b.safetensors" for name in tensors}
    parts = {file: {name: tensors[name] for name in tensors if names[name] == file} for file in set(names.values())}
    parts["b.safetensors"][EMBED] = tensors[EMBED] + (1 if changed else 0)
    for file, part in parts.items():
        save_file({name: tensor.clone() for name, tensor in part.items()}, tmp_path / file, metadata={"format": "pt"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    path.unlink()
    if changed:
        with pytest.raises(TargetIncompatibleError, match=rf"{EMBED} stands in a\.safetensors and in b\.safetensors"):
            load(tmp_path)
    else:
        assert torch.equal(load(tmp_path).embed.weight, tensors[EMBED])  # type: ignore[call-overload]


def test_a_head_that_is_not_there_is_tied_with_a_note(tmp_path: Path) -> None:
    """As vLLM does; the answers are those of the tied model."""
    write_family(tmp_path / "tied", "llama", tie_word_embeddings=True)
    wanted = load(tmp_path / "tied")
    config = json.loads((tmp_path / "tied" / "config.json").read_text())
    (tmp_path / "tied" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    got = load(tmp_path / "tied")
    assert torch.equal(got.head_weight, wanted.head_weight)
    assert got.head_weight.data_ptr() == got.embed.weight.data_ptr()
    assert wanted.notes == ()
    assert "tie_word_embeddings=false" in got.notes[0]


def test_a_stop_beyond_the_logits_is_none(tmp_path: Path) -> None:
    """Tokens were added and the model was not resized: `min_tokens` once ended the engine for everybody."""
    write_family(tmp_path, "llama")
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 112, 5000]}))
    target = load(tmp_path)
    assert target.stop_token_ids == {2}
    engine = Engine(target, num_draft_tokens=3, max_batch=4, max_tokens=120)
    (answer,) = decode(engine, [PROMPTS[0]], [SamplingParams(max_new_tokens=8, min_new_tokens=8)])
    assert len(answer) == 8
