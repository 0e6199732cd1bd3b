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
from engine_helpers import decode, reference_answer, speculative
from families import REFUSED, SERVED, write_family
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from eda_service.config import TargetSpec, TreeConfig
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.request import SamplingParams
from eda_service.errors import TargetIncompatibleError
from eda_service.model.draft import Draft
from eda_service.target import fidelity, head
from eda_service.target.attention import folded_attention
from eda_service.target.check import check_target
from eda_service.target.loader import Target, load_target
from eda_service.target.resolve import resolve_target

TABLE = Path(__file__).parents[3] / "docs" / "reference" / "families.md"
PROMPTS = [[5, 77, 31, 8, 60], list(range(20, 50)), [3]]


def load(directory: Path) -> Target:
    return load_target(TargetSpec(model=str(directory), dtype="float32"))


def reference(directory: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("family", SERVED)
def test_answers_are_those_of_transformers(family: str, tmp_path: Path, new_draft: Callable[..., Draft]) -> None:
    """Greedy, float32, token by token: without a draft, and with one whose tokens the target verifies."""
    target, model = load(write_family(tmp_path, family)), reference(tmp_path)
    wanted = [reference_answer(model, target, ids, 20) for ids in PROMPTS]
    params = [SamplingParams(max_new_tokens=20)] * len(PROMPTS)
    plain = Engine(target, num_draft_tokens=3, max_batch=4, max_tokens=120)
    assert decode(plain, PROMPTS, params) == wanted
    assert decode(speculative(target, new_draft(target)), PROMPTS, params) == wanted


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
@pytest.mark.parametrize("tree", [None, TreeConfig(size=6, depth=3, width=2)], ids=["chains", "trees"])
def test_layers_look_back_over_their_window(
    family: str, tree: TreeConfig | None, tmp_path: Path, new_draft: Callable[..., Draft]
) -> None:
    """A window of 8 and 50 positions: prefills, single tokens, verified drafts and trees see what transformers' do."""
    target = load(write_family(tmp_path, family, sliding_window=8, **WINDOWED[family]))
    assert target.max_context == 512
    wanted = [reference_answer(reference(tmp_path), target, ids, 20) for ids in PROMPTS]
    params = [SamplingParams(max_new_tokens=20)] * len(PROMPTS)
    plain = Engine(target, num_draft_tokens=3, max_batch=4, max_tokens=120)
    assert decode(plain, PROMPTS, params) == wanted
    assert decode(plain, PROMPTS[:1], params[:1]) == wanted[:1]
    assert decode(speculative(target, new_draft(target), tree=tree), PROMPTS, params) == wanted


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
    monkeypatch.setattr("eda_service.target.loader.lm_head_of", lambda model: head.LmHead(real(model).rows_VD))
    with pytest.raises(TargetIncompatibleError, match="decoded as another model: its logits and ours differ by"):
        load(directory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_difference_above_rounding_is_refused(dtype: torch.dtype) -> None:
    own_1LV = torch.randn(1, fidelity.NUM_TOKENS, 40, generator=torch.Generator().manual_seed(0))
    tolerance = fidelity._TOLERANCE[dtype]

    def shifted(by: float) -> Callable[[torch.Tensor, int], torch.Tensor]:
        ours_1LV = own_1LV + by * own_1LV.std()
        return lambda ids_1L, start: ours_1LV[:, start : start + ids_1L.shape[1]]

    assert fidelity.require_equal(own_1LV, shifted(0.5 * tolerance), vocab_size=40, dtype=dtype, name="m") > 0
    for wrong in (shifted(2 * tolerance), lambda ids_1L, start: torch.full((1, ids_1L.shape[1], 40), torch.nan)):
        with pytest.raises(TargetIncompatibleError):
            fidelity.require_equal(own_1LV, wrong, vocab_size=40, dtype=dtype, name="m")


def test_an_unknown_argument_of_attention_is_refused() -> None:
    tensors = [torch.randn(1, 2, 3, 4) for _ in range(3)]
    folded_attention(torch.nn.Identity(), *tensors, None, dropout=0.0, sliding_window=None, softclip=None)
    with pytest.raises(TargetIncompatibleError, match="softclip"):
        folded_attention(torch.nn.Identity(), *tensors, None, softclip=3.0)


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = directory / "model.safetensors"
    changed = change(load_file(path))
    save_file({name: tensor.contiguous() for name, tensor in changed.items()}, path, metadata={"format": "pt"})


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
