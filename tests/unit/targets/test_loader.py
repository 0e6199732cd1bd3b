"""Loading: features and logits as transformers computes them, LoRA merged, fingerprints that tell targets apart.

Oracle: transformers' own model (eager attention), and peft's unmerged model.

Shapes: B rows, L positions, D hidden, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from eda_service.config.job import TargetSpec
from eda_service.errors import EdaError, TargetIncompatibleError
from eda_service.targets.decoder.attention import NAME as ATTENTION
from eda_service.targets.decoder.attention import TreeShape
from eda_service.targets.decoder.fused import FusedDecoder, TransformersDecoder
from eda_service.targets.ends import choose_dtype
from eda_service.targets.ends_file import export_io, load_io
from eda_service.targets.loader import Target, load_target

FAMILIES = ("llama", "qwen2", "qwen3", "mistral")


def token_ids(rows: int = 3, length: int = 11) -> torch.Tensor:
    return torch.randint(3, 112, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_features_and_logits_equal_transformers(
    family: str, make_target: Callable[[str], Target], reference_model: Callable[[str], PreTrainedModel]
) -> None:
    target, reference, ids_BL = make_target(family), reference_model(family), token_ids()
    with torch.inference_mode():
        features_BLD = target.forward(ids_BL, target.new_cache(3, 32), [0, 0, 0]).head_in
        logits_BLV = target.head(features_BLD)
    wanted = reference(ids_BL)
    torch.testing.assert_close(features_BLD, reference.model(ids_BL).last_hidden_state, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits_BLV, wanted.logits, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_rows_over_the_slot_cache_equal_transformers(
    family: str, make_target: Callable[[str], Target], reference_model: Callable[[str], PreTrainedModel]
) -> None:
    """Prefix lengths 2, 7 and 4, then three tokens each in one padded forward."""
    target, ids_BL, starts = make_target(family), token_ids(), [2, 7, 4]
    cache = target.new_cache(3, 32)
    with torch.inference_mode():
        target.forward(ids_BL[:, :7], cache, [0, 0, 0])
        new_B3 = torch.stack([row[start : start + 3] for row, start in zip(ids_BL, starts, strict=True)])
        features_B3D = target.forward(new_B3, cache, starts).head_in
    wanted_BLD = reference_model(family).model(ids_BL).last_hidden_state
    for row, start in enumerate(starts):
        torch.testing.assert_close(features_B3D[row], wanted_BLD[row, start : start + 3], rtol=1e-4, atol=1e-4)


def test_everything_is_frozen(tiny_target: Target) -> None:
    assert isinstance(tiny_target.decoder, FusedDecoder)
    assert not any(p.requires_grad for p in tiny_target.embed.parameters())
    assert not tiny_target.head_weight.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fused_decoder_equals_transformers_own_modules(
    family: str, make_target: Callable[[str], Target], reference_model: Callable[[str], PreTrainedModel]
) -> None:
    """A family without a fused form goes through `TransformersDecoder`; both give the same features, trees included."""
    target, ids_BL = make_target(family), token_ids(rows=2, length=6)
    model = AutoModelForCausalLM.from_pretrained(reference_model(family).name_or_path, attn_implementation=ATTENTION)
    plain = dataclasses.replace(target, decoder=TransformersDecoder(model.model.eval().requires_grad_(False)))
    parents = [-1, 0, 0, 1, 1, 2]
    ancestors_LL = torch.eye(6, dtype=torch.bool)
    for node in range(1, 6):
        ancestors_LL[node] |= ancestors_LL[parents[node]]
    tree = TreeShape(torch.tensor([[0, 1, 1, 2, 2, 2]]).expand(2, -1), ancestors_LL.expand(2, -1, -1))
    with torch.inference_mode():
        got, wanted = (_prefix_then_tree(each, ids_BL, tree) for each in (target, plain))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def _prefix_then_tree(target: Target, ids_BL: torch.Tensor, tree: TreeShape) -> torch.Tensor:
    cache = target.new_cache(2, 32)
    target.forward(ids_BL, cache, [0, 0])
    return target.forward(ids_BL.flip(1), cache, [6, 3], tree=tree).head_in


@pytest.mark.parametrize("family", FAMILIES)
def test_each_path_of_a_tree_equals_the_sequence(family: str, make_target: Callable[[str], Target]) -> None:
    """Features of a node are those of its path decoded alone, whatever its siblings are."""
    target, ids_BL = make_target(family), token_ids(rows=1, length=9)
    parents = [-1, 0, 0, 2, 1]
    ancestors_LL = torch.eye(5, dtype=torch.bool)
    for node in range(1, 5):
        ancestors_LL[node] |= ancestors_LL[parents[node]]
    tree = TreeShape(torch.tensor([[0, 1, 1, 2, 2]]), ancestors_LL[None])
    with torch.inference_mode():
        cache = target.new_cache(1, 32)
        target.forward(ids_BL[:, :4], cache, [0])
        tree_BLD = target.forward(ids_BL[:, 4:], cache, [4], tree=tree).head_in
        for path in ([0, 1, 4], [0, 2, 3]):
            alone = target.new_cache(1, 32)
            path_ids_BL = torch.cat([ids_BL[:, :4], ids_BL[:, 4:][:, path]], dim=1)
            wanted_BLD = target.forward(path_ids_BL, alone, [0]).head_in[:, 4:]
            torch.testing.assert_close(tree_BLD[:, path], wanted_BLD, rtol=1e-4, atol=1e-4)


def test_dtype_is_as_asked() -> None:
    assert choose_dtype(TargetSpec(model="m", dtype="float32"), torch.device("cpu")) == torch.float32
    assert choose_dtype(TargetSpec(model="m", dtype="bfloat16"), torch.device("cpu")) == torch.bfloat16
    assert choose_dtype(TargetSpec(model="m"), torch.device("cuda")) == torch.bfloat16


@pytest.fixture(scope="module")
def adapter_dir(target_dir: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(target_dir("llama"), dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    path = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(path)
    return path


def test_lora_is_merged(target_dir: Callable[[str], Path], tiny_target: Target, adapter_dir: Path) -> None:
    ids_BL = token_ids()
    target = load_target(TargetSpec(model=str(target_dir("llama")), adapter=str(adapter_dir), dtype="float32"))
    base = AutoModelForCausalLM.from_pretrained(target_dir("llama"), dtype=torch.float32, attn_implementation="eager")
    wanted_BLV = PeftModel.from_pretrained(base, adapter_dir).eval()(ids_BL).logits.detach()
    with torch.inference_mode():
        got_BLV = target.head(target.forward(ids_BL, target.new_cache(3, 32), [0, 0, 0]).head_in)
        base_BLV = tiny_target.head(tiny_target.forward(ids_BL, tiny_target.new_cache(3, 32), [0, 0, 0]).head_in)
    torch.testing.assert_close(got_BLV, wanted_BLV, rtol=1e-3, atol=1e-2)
    assert (got_BLV - base_BLV).abs().max() > 0.5
    assert target.fingerprint.weights_sha256 != tiny_target.fingerprint.weights_sha256
    assert target.fingerprint.tokenizer_sha256 == tiny_target.fingerprint.tokenizer_sha256


def test_an_adapter_of_another_base_is_refused(adapter_dir: Path, target_dir: Callable[[str], Path]) -> None:
    """Factors for queries of 32 columns on a base of the same hidden size whose queries have 64."""
    with pytest.raises(
        TargetIncompatibleError, match=r"q_proj\.lora_B.* is 32 x 4, the base needs 64 x .*name the base"
    ) as caught:
        load_target(TargetSpec(model=str(target_dir("qwen3")), adapter=str(adapter_dir), dtype="float32"))
    assert caught.value.param == "target.adapter"


def test_fingerprint_follows_weights_tokenizer_and_template(
    tiny_target: Target, new_target_dir: Callable[..., Path], tmp_path: Path
) -> None:
    def load(directory: Path) -> Target:
        return load_target(TargetSpec(model=str(directory), dtype="float32"))

    same = load(new_target_dir(tmp_path / "same", "llama")).fingerprint
    other = load(new_target_dir(tmp_path / "other", "llama", seed=1)).fingerprint
    mine = tiny_target.fingerprint
    assert same.model_copy(update={"model": mine.model}) == mine
    assert other.weights_sha256 != mine.weights_sha256
    assert other.tokenizer_sha256 == mine.tokenizer_sha256
    template = tmp_path / "same" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert load(tmp_path / "same").fingerprint.chat_template_sha256 != mine.chat_template_sha256
    assert (mine.hidden_size, mine.vocab_size, mine.num_layers, mine.model_type) == (32, 112, 2, "llama")


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        (None, 512),
        ({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}, 2048),
        ({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, 512),
        (
            {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "original_max_position_embeddings": 128,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
            },
            128,
        ),
    ],
)
def test_the_context_is_what_the_rotation_was_made_for(
    new_target_dir: Callable[..., Path], tmp_path: Path, rope: dict[str, object] | None, context: int
) -> None:
    directory = new_target_dir(tmp_path / "m", "llama")
    config = json.loads((directory / "config.json").read_text())
    if rope is not None:
        (directory / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    target = load_target(TargetSpec(model=str(directory), dtype="float32"))
    assert target.max_context == context
    assert [note for note in target.notes if "LongRoPE" in note] == list(target.notes)
    assert bool(target.notes) is (context < 512)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_model_this_code_cannot_drive_is_refused(
    kind: str, target_dir: Callable[[str], Path], tmp_path: Path
) -> None:
    """GPT-2 is a causal LM whose decoder has no `norm`; a BERT with a causal head has no decoder at all."""
    common = {"vocab_size": 112}
    if kind == "gpt2":
        model: PreTrainedModel = GPT2LMHeadModel(GPT2Config(**common, n_embd=32, n_layer=1, n_head=2))
    else:
        model = BertLMHeadModel(
            BertConfig(
                **common,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                is_decoder=True,
            )
        )
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(target_dir("llama") / name, tmp_path / name)
    with pytest.raises(TargetIncompatibleError) as caught:
        load_target(TargetSpec(model=str(tmp_path), dtype="float32"))
    assert caught.value.param == "target.model"


def test_truncated_safetensors_are_a_clear_error(new_target_dir: Callable[..., Path], tmp_path: Path) -> None:
    directory = new_target_dir(tmp_path / "m", "llama")
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EdaError):
        load_target(TargetSpec(model=str(directory), dtype="float32"))


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("qwen2", False)])
def test_exported_embedding_and_head(
    family: str, tied: bool, make_target: Callable[[str], Target], tmp_path: Path
) -> None:
    """What train workers load instead of the target: bfloat16 copies, one matrix where the two are tied."""
    target, path = make_target(family), tmp_path / "io.safetensors"
    export_io(target, path)
    embed, lm_head = load_io(path, dtype=torch.float32, device=torch.device("cpu"))
    weight = target.embed.weight
    assert isinstance(weight, torch.Tensor)
    assert torch.equal(embed.weight, weight.bfloat16().float())
    head_VD = lm_head.rows_VD
    assert torch.equal(head_VD, target.head_weight.bfloat16().float())
    assert torch.equal(embed.weight, head_VD) is tied
    assert not embed.weight.requires_grad
    assert not head_VD.requires_grad


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, target_dir: Callable[[str], Path]) -> None:
    """Model, config and tokenizer each name a class in a file beside them, which would write a marker."""
    model, marker = Path(shutil.copytree(target_dir("llama"), tmp_path / "model")), tmp_path / "ran"
    (model / "custom.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass Mine: pass\n")
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((model / name).read_text())
        settings["auto_map"] = {
            "AutoConfig": "custom.Mine",
            "AutoModelForCausalLM": "custom.Mine",
            "AutoTokenizer": ["custom.Mine", "custom.Mine"],
        }
        (model / name).write_text(json.dumps(settings))
    load_target(TargetSpec(model=str(model), dtype="float32"))
    assert not marker.exists()
