"""EAGLE-3 handed back: bytes, names and keys of every dialect, what engines need beside them, and what is refused.

That vLLM computes the same from these files is shown in `tests/vllm`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_packs import publish_adapted
from draft_files import write_draft_manifest
from eagle3_drafts import eagle3_config
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from eda_service.config.job import Method, TrainConfig
from eda_service.drafts.checkpoint import load_pack, save_base_draft
from eda_service.drafts.dialects.read import ReadDraft, read_source
from eda_service.drafts.dialects.record import BaseTarget, Dialect
from eda_service.drafts.dialects.store import write_imported
from eda_service.drafts.draft import Draft
from eda_service.drafts.draft_config import Eagle1Config, Eagle3Config
from eda_service.drafts.eagle3 import Eagle3Draft
from eda_service.drafts.kinds import make_draft
from eda_service.errors import InputError, TargetIncompatibleError
from eda_service.export.calibration import CalibrationSettings
from eda_service.export.eagle3 import engine_parts
from eda_service.export.engine_limits import require_computed, shorter_than_target
from eda_service.export.export import Exported, ExportRequest, export_draft
from eda_service.export.files.contents import tensors_of
from eda_service.export.files.directory import read_export
from eda_service.export.files.eda_config import Destination, ExportedGate, ExportForm
from eda_service.storage.published.registry import find_draft, find_pack
from eda_service.targets.loader import Target

IDS = "eagle_aux_hidden_state_layer_ids"
ODD_W = torch.arange(1, 111, 2)
EDA = TrainConfig(method=Method.EDA, private_width_fraction=0.5)
FFN = tuple(f"mlp.{each}_proj.weight" for each in ("gate", "up", "down"))
DIALECTS = [each for each in Dialect if each is not Dialect.EAGLE1]
TARGET = BaseTarget(num_layers=2, vocab_size=112, hidden_size=32, max_position_embeddings=512)
SMALL = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "expert_width": 24, "layers": (1, 2)}
ODD = SMALL | {"draft_vocab_size": len(ODD_W), "rope_theta": 5000.0}


def official(target: Target, config: Eagle3Config, directory: Path) -> ReadDraft:
    """A draft as the authors of EAGLE publish theirs, in dtypes that are mixed, read; every tensor is random."""
    directory.mkdir()
    torch.manual_seed(3)
    draft = Eagle3Draft(config)
    for parameter in draft.parameters():
        nn.init.normal_(parameter, std=0.3)
    tensors = {
        name.replace("layers.0.", "midlayer."): parameter.detach().to(torch.float32 if "fc" in name else torch.float16)
        for name, parameter in draft.named_parameters()
    }
    tensors["d2t"], tensors["t2d"] = ODD_W - torch.arange(len(ODD_W)), torch.zeros(112, dtype=torch.uint8)
    tensors["t2d"][ODD_W] = 1
    save_file(tensors, directory / "model.safetensors")
    text = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 24}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_hidden_layers": 1}
    rest = {"vocab_size": 112, "draft_vocab_size": 55, "rms_norm_eps": 1e-5, "rope_theta": 5000.0, "pad_token_id": 7}
    nested = {IDS: [0, 1]}
    short = {"max_position_embeddings": 64, "torch_dtype": "float16", "eagle_config": nested}
    (directory / "config.json").write_text(json.dumps(text | heads | rest | short))
    return read_source(directory, TARGET)


@pytest.fixture
def imported(home: Path, tiny_target: Target, tmp_path: Path) -> ReadDraft:
    """`drafts/tiny/1` came as an official draft."""
    read = official(tiny_target, eagle3_config(tiny_target, **ODD, own_embedding=True), tmp_path / "official")
    directory = home / "drafts" / "tiny" / "1"
    directory.mkdir(parents=True)
    write_imported(read, directory)
    fingerprint = tiny_target.fingerprint
    write_draft_manifest(directory, fingerprint.hidden_size, fingerprint.vocab_size, fingerprint.tokenizer_sha256)
    return read


def register(home: Path, target: Target, **changes: Any) -> Path:
    """`drafts/tiny/1` was made here, random, in bfloat16."""
    torch.manual_seed(3)
    draft = Eagle3Draft(eagle3_config(target, **(SMALL | changes)))
    for parameter in draft.parameters():
        nn.init.normal_(parameter, std=0.3)
    directory = home / "drafts" / "tiny" / "1"
    directory.mkdir(parents=True)
    vocab_W = None if draft.shape.draft_vocab_size == 112 else ODD_W
    save_base_draft(directory, draft, vocab_W)
    fingerprint = target.fingerprint
    write_draft_manifest(directory, fingerprint.hidden_size, fingerprint.vocab_size, fingerprint.tokenizer_sha256)
    return directory


def run(home: Path, out: Path, own: Target, reference: str = "tiny", **changes: Any) -> Exported:
    settings: dict[str, Any] = {"destination": Destination.VLLM, "form": ExportForm.DENSE, "target": own.spec}
    calibration = CalibrationSettings(num_prompts=8, max_new_tokens=16)
    request = ExportRequest(reference=reference, out=out, calibration=calibration, **(settings | changes))
    return export_draft(request, home=home)


def written(out: Path) -> tuple[dict[str, Tensor], Any]:
    return load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())


def same(left: Tensor, right: Tensor) -> bool:
    """To the bit, dtype and shape included."""
    bits = [tensor.contiguous().view(torch.uint8) for tensor in (left, right)]
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(*bits)


def outputs(draft: Draft) -> Tensor:
    """Of one step; each position attends to itself."""
    rng = torch.Generator().manual_seed(0)
    states_BLC, embeds_BLD = (torch.randn(2, 8, width, generator=rng) for width in (64, 32))
    with torch.no_grad():
        state_BLD = draft.float().start(states_BLC)
        positions_BL = torch.arange(8).expand(2, 8)
        return draft.step(embeds_BLD, state_BLD, positions_BL, lambda _query, _key, value: value.repeat(1, 2, 1, 1))


@pytest.mark.parametrize("form", list(ExportForm))
def test_an_adapted_import_goes_back_as_it_came_but_for_its_ffn(
    form: ExportForm, imported: ReadDraft, home: Path, tiny_target: Target, tmp_path: Path
) -> None:
    reference = publish_adapted(home, find_draft("tiny@1", home), tiny_target, EDA)
    eda = run(home, tmp_path / "out", tiny_target, reference, form=form).eda_config
    tensors, config = written(tmp_path / "out")
    before = load_file(tmp_path / "official" / "model.safetensors")
    layer = "midlayer." if form is ExportForm.DENSE else "layers.0."
    before = {name.replace("midlayer.", layer): tensor for name, tensor in before.items()}
    changed = {name for name in tensors if name not in before or not same(before[name], tensors[name])}
    if form is ExportForm.DENSE:
        assert changed == {layer + each for each in FFN}
        assert before.keys() == tensors.keys()
        assert tensors[layer + FFN[0]].shape == (24 + 12, 32)
        assert same(tensors[layer + FFN[0]][:24].contiguous(), before[layer + FFN[0]])
        assert (eda.gate, eda.dialect, config["architectures"]) == (ExportedGate.FOLDED, "eagle3", ["LlamaForCausalLM"])
        assert config["pad_token_id"] == 7  # a key that nobody here reads
    else:
        shared = {f"{layer}mlp.shared.{each.removeprefix('mlp.')}": before[layer + each] for each in FFN}
        assert all(same(tensors[name], tensor) for name, tensor in shared.items())
        private = {f"{layer}mlp.private.{each.removeprefix('mlp.')}" for each in FFN}
        assert changed == shared.keys() | private | {f"{layer}mlp.gate.proj.weight"}
        assert (eda.gate, config["architectures"]) == (ExportedGate.SOFTMAX, ["Eagle3EdaForCausalLM"])
    assert {tensors[name].dtype for name in changed} == {torch.float16}
    assert eda.calibration is not None or form is ExportForm.PLUGIN
    loaded = read_export(tmp_path / "out")[1]
    assert loaded.vocab_W is not None
    assert loaded.vocab_W.tolist() == ODD_W.tolist()
    if form is ExportForm.PLUGIN:
        wanted = load_pack(find_draft("tiny@1", home), find_pack(reference, home), dtype=torch.float32).draft
        both = [outputs(each) for each in (loaded.draft, wanted)]
        torch.testing.assert_close(*both, rtol=1e-3, atol=1e-3)  # the private expert is rounded to float16


def test_the_keys_that_say_one_thing_say_the_same(
    imported: ReadDraft, home: Path, tiny_target: Target, tmp_path: Path
) -> None:
    made = run(home, tmp_path / "out", tiny_target)
    _, config = written(tmp_path / "out")
    assert (config[IDS], config["eagle_config"][IDS], config["num_aux_hidden_states"]) == ([1, 2], [0, 1], 2)
    assert config["eagle_config"]["use_aux_hidden_state"] is True
    assert (config["rope_theta"], config["rope_scaling"], config["max_position_embeddings"]) == (5000.0, None, 512)
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 5000.0}
    assert (config["draft_vocab_size"], config["target_hidden_size"]) == (55, 32)
    assert (config["norm_before_fc"], config["eagle_config"]["norm_before_fc"]) == (False, False)
    assert '\'{"method": "eagle3"' in made.serve_command
    back = read_source(tmp_path / "out", TARGET)
    assert back.config == imported.config
    assert back.vocab_W is not None
    assert back.vocab_W.tolist() == ODD_W.tolist()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_reads_back_as_the_draft_that_it_was(
    dialect: Dialect, home: Path, tiny_target: Target, tmp_path: Path
) -> None:
    """Read by what imports drafts, which knows nothing of our own keys in the file."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16.0}
    shape: dict[str, Any] = {"norm_before_residual": True, "rope_scaling": yarn, "fc_bias": True, "logit_scale": 0.5}
    shape["own_embedding"] = dialect is Dialect.EAGLE3  # else its files are SpecForge's
    directory = register(home, tiny_target, **(ODD | shape))
    run(home, tmp_path / "out", tiny_target, destination=Destination.HF, dialect=dialect)
    text = json.loads((tmp_path / "out" / "config.json").read_text())
    del text["eda_config"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(text))
    back = read_source(tmp_path / "out", TARGET)
    assert back.dialect is dialect
    stored = load_file(directory / "draft.safetensors")
    assert back.config == Eagle3Config.model_validate_json((directory / "config.json").read_text())
    assert back.vocab_W is not None
    assert torch.equal(back.vocab_W, stored.pop("draft_vocab"))
    assert back.tensors.keys() == stored.keys()
    assert all(same(back.tensors[name].load(), tensor) for name, tensor in stored.items())


FLAGS = {"norm_before_fc": True, "fc_norm": "each", "norm_output": True, "qk_norm": True, "qkv_bias": True}


@pytest.mark.parametrize("dialect", [Dialect.SPECULATORS, Dialect.MODELOPT, Dialect.ANGELSLIM])
def test_every_flag_survives(dialect: Dialect, home: Path, tiny_target: Target, tmp_path: Path) -> None:
    register(home, tiny_target, **FLAGS, draft_vocab_size=112)
    eda = run(home, tmp_path / "out", tiny_target, dialect=dialect).eda_config
    back = read_source(tmp_path / "out", TARGET).config
    assert back == eda.draft
    assert back == eagle3_config(tiny_target, **SMALL, **FLAGS)
    _, config = written(tmp_path / "out")
    layer = config.get("transformer_layer_config", config)
    assert (layer["model_type"], layer["num_aux_hidden_states"], layer["attention_bias"]) == ("qwen3", 2, True)
    if dialect is not Dialect.SPECULATORS:
        assert config["architectures"] == ["Eagle3Qwen3ForCausalLM"]


def test_a_draft_without_layers_says_so_where_vllm_looks(home: Path, tiny_target: Target, tmp_path: Path) -> None:
    register(home, tiny_target, layers=())
    for dialect in (Dialect.MODELOPT, Dialect.SPECULATORS):
        run(home, tmp_path / dialect, tiny_target, dialect=dialect)
        _, config = written(tmp_path / dialect)
        layer = config.get("transformer_layer_config", config)
        assert layer["eagle_config"]["use_aux_hidden_state"] is False
        assert IDS not in config
        assert read_source(tmp_path / dialect, TARGET).config == eagle3_config(tiny_target, **(SMALL | {"layers": ()}))


def test_what_vllm_has_in_another_place_is_put_there(home: Path, tiny_target: Target, tmp_path: Path) -> None:
    """A joint norm is its `input_norm`, biases come all or none, and rows of the target's head travel."""
    shape = {"fc_norm": "joint", "qkv_bias": True, "own_head": False, "draft_vocab_size": 55}
    directory = register(home, tiny_target, **shape)
    run(home, tmp_path / "out", tiny_target)
    tensors, config = written(tmp_path / "out")
    stored = load_file(directory / "draft.safetensors")
    assert same(tensors["input_norm.weight"], stored["fc_norm.weight"])
    assert "fc_norm.weight" not in tensors
    assert (config["norm_before_fc"], config["eagle_config"]["norm_before_fc"], config["fc_norm"]) == (
        True,
        True,
        False,
    )
    assert not tensors["layers.0.self_attn.o_proj.bias"].any()
    assert same(tensors["layers.0.self_attn.q_proj.bias"], stored["layers.0.self_attn.q_proj.bias"])
    assert config["attention_bias"] is True
    assert torch.equal(tensors["lm_head.weight"], tiny_target.head_weight[ODD_W].bfloat16())


def test_rows_that_were_added_to_the_head_stand_behind_the_others(tiny_target: Target) -> None:
    config, vocab_W = eagle3_config(tiny_target, **ODD), torch.cat([ODD_W, torch.tensor([0, 4])])
    tensors = {name: parameter.detach() for name, parameter in Eagle3Draft(config).named_parameters()}
    added, head = torch.full((2, 32), 0.5, dtype=torch.bfloat16), tensors["lm_head.weight"]
    vllm, lm_head = Destination.VLLM, tiny_target.lm_head
    with_rows = tensors | {"lm_head_added.weight": added}
    parts = engine_parts(config, with_rows, vocab_W, lm_head, vllm, Dialect.MODELOPT, {"d2t": ODD_W, "t2d": ODD_W})
    assert parts.config.draft_vocab_size == 57
    assert torch.equal(parts.tensors["lm_head.weight"], torch.cat([head, added.float()]))
    assert (parts.tensors["d2t"] + torch.arange(57)).tolist() == vocab_W.tolist()
    assert parts.tensors["t2d"].nonzero().flatten().tolist() == sorted(vocab_W.tolist())
    assert "lm_head_added.weight" not in parts.tensors


@pytest.mark.parametrize("form", list(ExportForm))
def test_a_pack_that_added_rows_is_exported_with_them(
    form: ExportForm, home: Path, tiny_target: Target, tmp_path: Path
) -> None:
    register(home, tiny_target, **ODD)
    train, vocab_W = EDA.model_copy(update={"extend_draft_vocab": 2}), torch.cat([ODD_W, torch.tensor([0, 4])])
    reference = publish_adapted(home, find_draft("tiny@1", home), tiny_target, train, vocab_W=vocab_W)
    added = load_file(find_pack(reference, home) / "pack.safetensors").get("lm_head_added.weight")
    rows = torch.zeros(2, 32, dtype=torch.bfloat16) if added is None else added
    eda = run(home, tmp_path / "out", tiny_target, reference, form=form).eda_config
    tensors, config = written(tmp_path / "out")
    stored = load_file(find_draft("tiny@1", home) / "draft.safetensors")
    assert same(tensors["lm_head.weight"], torch.cat([stored["lm_head.weight"], rows]))
    assert (tensors["d2t"] + torch.arange(57)).tolist() == vocab_W.tolist()
    assert (config["draft_vocab_size"], eda.draft_vocab_size) == (57, 57)


@pytest.mark.parametrize(("factor", "warned"), [(2.0, True), (16.0, False)])
def test_a_rotation_that_ends_before_the_target_does_is_told(factor: float, warned: bool, tiny_target: Target) -> None:
    scaling = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 32}
    said = shorter_than_target(eagle3_config(tiny_target, rope_scaling=scaling), Destination.VLLM, 512)
    assert (said is not None and "covers 64 positions in vllm, the target has 512" in said) is warned


REFUSED: dict[str, tuple[Destination, dict[str, Any], str]] = {
    "vllm fc bias": (Destination.VLLM, {"fc_bias": True}, "fc has a bias"),
    "vllm no hidden_norm": (Destination.VLLM, {"layers": (), "has_hidden_norm": False}, "no hidden_norm"),
    "vllm two norms": (Destination.VLLM, {"norm_before_fc": True, "fc_norm": "joint"}, "vLLM has one such norm"),
    "vllm output bias": (Destination.VLLM, {"qk_norm": True, "o_bias": True}, "no bias behind its attention"),
    "sglang residual": (
        Destination.SGLANG,
        {"norm_before_residual": True},
        "norm_before_residual is set, which SGLang",
    ),
    "sglang qk norms": (Destination.SGLANG, {"qk_norm": True}, "SGLang's Llama class drops those norms"),
    "sglang embedding": (Destination.SGLANG, {"own_embedding": True}, "SGLang replaces by the target's"),
    "sglang biases": (Destination.SGLANG, {"qkv_bias": True}, "SGLang's class does not read"),
    "sglang layer 0": (Destination.SGLANG, {"layers": (0, 2)}, "layer ids cannot name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_engine_would_compute_otherwise_is_refused_with_the_reason(
    name: str, home: Path, tiny_target: Target, tmp_path: Path
) -> None:
    destination, shape, reason = REFUSED[name]
    register(home, tiny_target, **shape)
    with pytest.raises(TargetIncompatibleError, match=reason):
        run(home, tmp_path / "out", tiny_target, destination=destination)
    assert not (tmp_path / "out").exists()
    run(home, tmp_path / "out", tiny_target, destination=Destination.HF, dialect=Dialect.DEEPSPEC)


def test_sglang_gets_a_dense_draft_and_no_token_map(home: Path, tiny_target: Target, tmp_path: Path) -> None:
    register(home, tiny_target, **ODD)
    made = run(home, tmp_path / "out", tiny_target, destination=Destination.SGLANG)
    tensors, config = written(tmp_path / "out")
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    assert tensors["d2t"].tolist() == (ODD_W - torch.arange(55)).tolist()
    assert tensors["t2d"].nonzero().flatten().tolist() == ODD_W.tolist()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    assert "--speculative-algorithm EAGLE3" in made.serve_command
    assert "token-map" not in made.serve_command
    with pytest.raises(TargetIncompatibleError, match="no plugin for SGLang's EAGLE-3; export the dense form"):
        run(home, tmp_path / "new", tiny_target, destination=Destination.SGLANG, form=ExportForm.PLUGIN)


def test_a_dialect_that_the_destination_does_not_read_is_refused(
    imported: ReadDraft, home: Path, tiny_target: Target, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="--dialect nemo is not one that vllm reads; name one of eagle3, specforge"):
        run(home, tmp_path / "out", tiny_target, dialect=Dialect.NEMO)
    with pytest.raises(InputError, match="the plugin form has files of its own"):
        run(home, tmp_path / "out", tiny_target, dialect=Dialect.EAGLE3, form=ExportForm.PLUGIN)


def test_specforge_s_norm_output_is_not_the_engines(home: Path, tiny_target: Target, tmp_path: Path) -> None:
    register(home, tiny_target, norm_output=True)
    for dialect in (Dialect.SPECFORGE, Dialect.EAGLE3):
        with pytest.raises(TargetIncompatibleError, match=f"name another --dialect than {dialect}"):
            run(home, tmp_path / "out", tiny_target, dialect=dialect)


EAGLE1: dict[str, Any] = {
    "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "expert_width": 48, "vocab_size": 112,
    "rope_theta": 1e4, "rms_norm_eps": 1e-5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("destination", "shape", "reason"),
    [
        (Destination.VLLM, {"fc_bias": True}, "fc has a bias"),
        (Destination.SGLANG, {"own_embedding": True}, "SGLang replaces"),
        (Destination.SGLANG, {"qkv_bias": True}, "SGLang's Llama class does not read"),
        (Destination.VLLM, {"own_embedding": True, "qkv_bias": True}, None),
        (Destination.VLLM, {"o_bias": True}, None),
        (Destination.SGLANG, {"fc_bias": True}, None),
        (Destination.HF, {"fc_bias": True, "own_embedding": True, "qkv_bias": True}, None),
    ],
)
def test_what_imported_eagle1_drafts_have_beside_ours(
    destination: Destination, shape: dict[str, Any], reason: str | None, tiny_target: Target
) -> None:
    config = Eagle1Config(**(EAGLE1 | shape))
    if reason is not None:
        with pytest.raises(TargetIncompatibleError, match=reason):
            require_computed(config, None, destination, ExportForm.DENSE, tiny_target.lm_head)
        return
    require_computed(config, None, destination, ExportForm.DENSE, tiny_target.lm_head)
    own = {name: parameter.detach() for name, parameter in make_draft(config).named_parameters()}
    made = tensors_of(config, own, None, tiny_target.lm_head, destination)
    assert all(made[name] is tensor for name, tensor in own.items())
