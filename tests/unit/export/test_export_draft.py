"""Exports end to end: what is written, who can read it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_packs import publish_adapted
from safetensors.torch import load_file, save_file

from eda_service.config.job import Method, Mix, TargetSpec, TrainConfig
from eda_service.drafts.checkpoint import load_pack
from eda_service.drafts.draft import Draft
from eda_service.drafts.unroll import unroll
from eda_service.errors import ArtifactCorruptError, ConflictError, InputError, NotFoundError, TargetIncompatibleError
from eda_service.export.calibration import CalibrationSettings
from eda_service.export.export import Exported, ExportRequest, export_draft
from eda_service.export.files.directory import check_written, read_export
from eda_service.export.files.eda_config import Destination, ExportedGate, ExportForm
from eda_service.storage.files import sha256_file
from eda_service.storage.published.registry import find_draft, find_pack
from eda_service.targets.loader import Target

VOCAB_W = torch.arange(1, 111, 2)
EDA = TrainConfig(method=Method.EDA, private_width_fraction=0.5)
EDA_SUM = TrainConfig(method=Method.EDA, mix=Mix.SUM, train_fc=True)
EDA_ATTENTION = TrainConfig(method=Method.EDA, train_attention=True)
OTHERS = [TrainConfig(method=Method.FULL_FT), TrainConfig(method=Method.LORA, lora_rank=4)]


def run(home: Path, out: Path, own: Target, reference: str = "adapted", **changes: Any) -> Exported:
    """Export to vLLM's plugin unless told otherwise."""
    settings: dict[str, Any] = {"destination": Destination.VLLM, "form": ExportForm.PLUGIN, "target": own.spec}
    calibration = CalibrationSettings(num_prompts=8, max_new_tokens=16)
    request = ExportRequest(reference=reference, out=out, calibration=calibration, **(settings | changes))
    return export_draft(request, home=home)


def written(out: Path) -> tuple[dict[str, torch.Tensor], Any]:
    """Tensors and config of an export."""
    return load_file(out / "model.safetensors"), json.loads((out / "config.json").read_text())


def outputs(draft: Draft, target: Target) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    ids_BL = torch.randint(3, 112, (2, 8), generator=rng)
    features_BLD = torch.randn(2, 8, 32, generator=rng)
    with torch.no_grad():
        return torch.cat(list(unroll(draft.float(), target.embed, ids_BL, features_BLD, 2)), dim=1)


@pytest.mark.parametrize("destination", list(Destination))
@pytest.mark.parametrize(
    "train", [EDA, EDA_SUM, EDA_ATTENTION, *OTHERS], ids=["eda", "sum", "attention", "full_ft", "lora"]
)
def test_a_plugin_export_computes_what_the_pack_does(
    destination: Destination, train: TrainConfig, home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    reference = publish_adapted(home, base_draft_dir, tiny_target, train, vocab_W=VOCAB_W)
    made = run(home, tmp_path / "out", tiny_target, destination=destination)
    eda, loaded = read_export(tmp_path / "out")
    assert eda == made.eda_config
    wanted = load_pack(find_draft("tiny@1", home), find_pack(reference, home), dtype=torch.bfloat16)
    torch.testing.assert_close(outputs(loaded.draft, tiny_target), outputs(wanted.draft, tiny_target), rtol=0, atol=0)
    assert loaded.vocab_W is not None
    assert loaded.vocab_W.tolist() == VOCAB_W.tolist()
    gates = {(Method.EDA, Mix.SOFTMAX): ExportedGate.SOFTMAX, (Method.EDA, Mix.SUM): ExportedGate.SUM}
    assert eda.gate is gates.get((train.method, train.mix), ExportedGate.NONE)
    assert (eda.source, eda.method, eda.base_draft) == (reference, train.method.value, "tiny@1")
    assert eda.verifier == tiny_target.fingerprint
    assert eda.calibration is None


def test_what_vllms_plugin_gets(home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path) -> None:
    """The head's rows, and offsets as EAGLE-3 writes them."""
    publish_adapted(home, base_draft_dir, tiny_target, EDA, vocab_W=VOCAB_W)
    made = run(home, tmp_path / "out", tiny_target)
    tensors, config = written(tmp_path / "out")
    assert torch.equal(tensors["lm_head.weight"], tiny_target.head_weight[VOCAB_W].bfloat16())
    assert [draft + int(tensors["d2t"][draft]) for draft in range(55)] == VOCAB_W.tolist()
    assert tensors["layers.0.mlp.gate.proj.weight"].shape == (2, 32)
    assert tensors["layers.0.mlp.private.down_proj.weight"].shape == (32, 24)
    assert (config["architectures"], config["draft_vocab_size"]) == (["EagleEdaForCausalLM"], 55)
    assert config["eda_config"]["scale"] == 2.0
    assert config["max_position_embeddings"] == 512
    assert '\'{"method": "eagle"' in made.serve_command
    assert (tmp_path / "out/model.safetensors").stat().st_mode & 0o777 == 0o644


def test_what_sglang_gets(home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path) -> None:
    """`fc` with a bias, and the vocabulary as a file."""
    publish_adapted(home, base_draft_dir, tiny_target, EDA, vocab_W=VOCAB_W)
    made = run(home, tmp_path / "out", tiny_target, destination=Destination.SGLANG)
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert not tensors["fc.bias"].any()
    assert {"d2t", "lm_head.weight"}.isdisjoint(tensors)
    assert torch.load(tmp_path / "out/token_map.pt", weights_only=True) == VOCAB_W.tolist()
    assert made.serve_command.startswith("SGLANG_EXTERNAL_MODEL_PACKAGE=eda_service.export.sglang_models python -m")
    assert f"--speculative-token-map {tmp_path / 'out/token_map.pt'}" in made.serve_command
    assert "--speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4" in made.serve_command


def test_a_dense_export_is_an_eagle_draft(
    home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    """vLLM's own class knows these names and no others; the change in acceptance stands in the config."""
    publish_adapted(home, base_draft_dir, tiny_target, EDA, vocab_W=VOCAB_W)
    eda = run(home, tmp_path / "out", tiny_target, form=ExportForm.DENSE).eda_config
    tensors, config = written(tmp_path / "out")
    names = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    layer = {f"layers.0.{name}.weight" for name in [*names, "post_attention_layernorm"]}
    assert set(tensors) == {"fc.weight"} | layer
    assert (config["architectures"], config["intermediate_size"]) == (["LlamaForCausalLM"], 48 + 24)
    assert (eda.gate, eda.private, eda.draft_vocab_size, eda.scale) == (ExportedGate.FOLDED, None, None, 1.0)
    assert eda.calibration is not None
    assert eda.calibration.gate_weights is not None
    assert sum(eda.calibration.gate_weights) == pytest.approx(1.0, abs=1e-3)
    assert (eda.calibration.num_calibration_prompts, eda.calibration.num_measured_prompts) == (2, 6)


@pytest.mark.parametrize("destination", [Destination.SGLANG, Destination.HF])
def test_a_dense_export_elsewhere_keeps_the_vocabulary(
    destination: Destination, home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    """A sum folds exactly, so nothing is calibrated."""
    reference = publish_adapted(home, base_draft_dir, tiny_target, EDA_SUM, vocab_W=VOCAB_W)
    eda = run(home, tmp_path / "out", tiny_target, destination=destination, form=ExportForm.DENSE).eda_config
    assert (eda.gate, eda.draft_vocab_size, eda.calibration) == (ExportedGate.FOLDED, 55, None)
    _, loaded = read_export(tmp_path / "out")
    wanted = load_pack(find_draft("tiny@1", home), find_pack(reference, home), dtype=torch.bfloat16).draft
    torch.testing.assert_close(outputs(loaded.draft, tiny_target), outputs(wanted, tiny_target), rtol=1e-4, atol=1e-4)


def test_a_base_draft_needs_a_target(home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tiny@1 does not say which target it belongs to; name it with --target"):
        run(home, tmp_path / "out", tiny_target, "tiny", target=None)
    eda = run(home, tmp_path / "out", tiny_target, "tiny").eda_config
    assert (eda.source, eda.method, eda.gate, eda.calibration) == ("tiny@1", "base_draft", ExportedGate.NONE, None)


def test_a_pack_names_its_target(home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path) -> None:
    path = find_pack(publish_adapted(home, base_draft_dir, tiny_target, EDA), home) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["target"] = tiny_target.spec.model_dump()
    path.write_text(json.dumps(manifest))
    made = run(home, tmp_path / "out", tiny_target, target=None)
    assert made.eda_config.verifier.model == tiny_target.spec.model
    assert not made.target_to_merge


def test_another_target_is_refused(
    home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path, new_target_dir: Any
) -> None:
    publish_adapted(home, base_draft_dir, tiny_target, EDA)
    other = TargetSpec(model=str(new_target_dir(tmp_path / "other", "llama", seed=5)), dtype="float32")
    with pytest.raises(TargetIncompatibleError, match=r"pack adapted@1 was made for another target .*weights_sha256"):
        run(home, tmp_path / "out", tiny_target, target=other)
    assert not (tmp_path / "out").exists()


def test_unknown_names_list_what_is(home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path) -> None:
    publish_adapted(home, base_draft_dir, tiny_target, EDA)
    for reference in ("nothing", "adapted@9", "a b", "adapted@x"):
        with pytest.raises(NotFoundError, match=r"packs: adapted; base drafts: .*tiny@1"):
            run(home, tmp_path / "out", tiny_target, reference)


def test_nothing_is_written_over(home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run(home, out, tiny_target, "tiny")  # an empty directory is free
    before = (out / "config.json").read_bytes()
    with pytest.raises(ConflictError, match=r"out exists already; remove it or choose another directory"):
        run(home, out, tiny_target, "tiny")
    with pytest.raises(ConflictError):
        run(home, tmp_path / "new", tiny_target, "tiny", merged_target=out)
    assert (out / "config.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_written(home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written: .*; choose another directory"):
        run(home, tmp_path / "file" / "out", tiny_target, "tiny")


@pytest.mark.parametrize("damage", ["value", "missing", "shape", "unknown", "config"])
def test_a_damaged_export_is_noticed(
    damage: str, home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path
) -> None:
    publish_adapted(home, base_draft_dir, tiny_target, EDA)
    run(home, tmp_path / "out", tiny_target)
    weights, config = tmp_path / "out/model.safetensors", tmp_path / "out/config.json"
    eda, _ = read_export(tmp_path / "out")
    tensors = load_file(weights)
    check_written(tmp_path / "out", eda, tensors, None)
    key, damaged = "layers.0.mlp.gate.proj.weight", dict(tensors)
    if damage == "config":
        config.write_text(config.read_text().replace('"scale": 2.0', '"scale": 1.0'))
        with pytest.raises(ArtifactCorruptError, match="other values of eda_config"):
            check_written(tmp_path / "out", eda, tensors, None)
        return
    if damage == "value":
        damaged[key] = tensors[key] + 1
    elif damage == "missing":
        del damaged[key]
    elif damage == "shape":
        damaged[key] = tensors[key][:1].contiguous()
    else:
        damaged["fc.bias"] = torch.zeros(32)
    save_file(damaged, weights)
    with pytest.raises(ArtifactCorruptError, match="has sha256"):
        read_export(tmp_path / "out")
    fresh = eda.model_copy(update={"weights_sha256": sha256_file(weights)})
    text = json.loads(config.read_text())
    config.write_text(json.dumps(text | {"eda_config": fresh.model_dump(mode="json")}))
    with pytest.raises(
        ArtifactCorruptError, match="other values of" if damage == "value" else "does not fit its config"
    ):
        check_written(tmp_path / "out", fresh, tensors, None)


def test_progress_is_told_step_by_step(home: Path, base_draft_dir: Path, tiny_target: Target, tmp_path: Path) -> None:
    publish_adapted(home, base_draft_dir, tiny_target, EDA)
    told: list[tuple[str, float, float | None]] = []
    request = ExportRequest(
        reference="adapted",
        destination=Destination.VLLM,
        form=ExportForm.DENSE,
        out=tmp_path / "out",
        target=tiny_target.spec,
        calibration=CalibrationSettings(num_prompts=8, max_new_tokens=16),
    )
    export_draft(request, home=home, on_progress=lambda step, done, total, unit="": told.append((step, done, total)))
    assert list(dict.fromkeys(step for step, _, _ in told)) == ["load", "answer", "measure", "write"]
    assert [done for step, done, _ in told if step == "answer"] == list(range(1, 9))
    assert {total for step, _, total in told if step == "answer"} == {8}
