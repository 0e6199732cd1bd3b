"""Every dialect, written by hand from one set of tensors, gives these tensors and the config they were made for."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from dialect_files import (
    DIALECTS,
    IDS,
    LLAMA,
    ROPE,
    TARGET,
    USUAL,
    V,
    bytes_of,
    deepspec,
    official,
    official_eagle1,
    put,
    specforge,
    speculators,
    tensors_of,
)

from eda_service.drafts.dialects.read import ReadDraft, read_source
from eda_service.drafts.draft_config import Eagle1Config, Eagle3Config, RopeScaling

SHAPE = {
    "hidden_size": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "expert_width": 48,
    "vocab_size": 64,
    "rope_theta": 5e5,
    "rms_norm_eps": 1e-5,
}


def same_bytes(read: ReadDraft, tensors: dict[str, torch.Tensor]) -> None:
    assert read.tensors.keys() == tensors.keys()
    for name, at in read.tensors.items():
        assert b"".join(at.blocks(block_bytes=100)) == bytes_of(tensors[name]), name


def why(read: ReadDraft, field: str) -> str:
    return " ".join(each.why for each in read.assumed if each.field == field)


@pytest.mark.parametrize("files", ["one", "shards"])
@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_gives_the_tensors_and_the_config_that_it_was_made_of(tmp_path: Path, name: str, files: str) -> None:
    tensors = tensors_of(embedding=name != "specforge")
    read = read_source(put(tmp_path / "draft", DIALECTS[name], tensors, files=files), TARGET)
    assert read.config == Eagle3Config(
        **SHAPE,
        layers=USUAL,
        draft_vocab_size=24,
        own_embedding=name != "specforge",
        norm_before_residual=name == "speculators",
    )
    same_bytes(read, tensors)
    assert read.vocab_W is not None
    assert (read.vocab_W.dtype, read.vocab_W.tolist()) == (torch.int32, IDS)
    assert read.dialect == name
    assert set(read.extras) == {"d2t"} | ({"t2d"} if name != "modelopt" else set())


def test_deepspec_counts_outputs_and_norms_all_states_at_once(tmp_path: Path) -> None:
    tensors = tensors_of(states=5, embedding=True, rows=V, norms=("fc_norm",), qk_norm=True)
    read = read_source(put(tmp_path, deepspec, tensors), TARGET)
    assert read.config == Eagle3Config(
        **SHAPE, layers=(1, 3, 4, 6, 7), draft_vocab_size=64, fc_norm="joint", qk_norm=True, own_embedding=True
    )
    assert (read.vocab_W, read.dialect) == (None, "deepspec")
    same_bytes(read, tensors)


@pytest.mark.parametrize("kind", ["eagle1", "eagle3"])
@pytest.mark.parametrize(
    "biases",
    [(), ("fc",), ("layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj")],
)
@pytest.mark.parametrize("embedding", [False, True])
def test_biases_and_an_embedding_are_those_that_are_in_the_file(
    tmp_path: Path, kind: str, biases: tuple[str, ...], embedding: bool
) -> None:
    tensors = tensors_of(kind, biases=biases, embedding=embedding)
    read = read_source(put(tmp_path, official_eagle1 if kind == "eagle1" else official, tensors), TARGET)
    assert isinstance(read.config, Eagle1Config if kind == "eagle1" else Eagle3Config)
    found = (read.config.fc_bias, read.config.qkv_bias, read.config.o_bias, read.config.own_embedding)
    assert found == ("fc" in biases, len(biases) == 3, False, embedding)
    same_bytes(read, tensors)
    assert read.record.kind == kind


def test_the_kind_is_the_tensors_whatever_the_architecture_is_called(tmp_path: Path) -> None:
    """EAGLE-1 tensors under EAGLE-3's name, and the other way around."""
    first = put(
        tmp_path / "a", official_eagle1, tensors_of("eagle1"), config={"architectures": ["LlamaForCausalLMEagle3"]}
    )
    second = put(tmp_path / "b", official, tensors_of(), config={"architectures": ["EagleLlamaForCausalLM"]})
    assert [read_source(each, TARGET).config.kind for each in (first, second)] == ["eagle1", "eagle3"]


FLAGS = list(itertools.product((False, True), (False, True), ("none", "each", "joint"), (False, True), (False, True)))


@pytest.mark.parametrize("dialect", ["eagle3", "speculators", "modelopt"])
def test_flags_are_read_one_by_one_and_together(tmp_path: Path, dialect: str) -> None:
    for index, (residual, before_fc, fc_norm, output, qk_norm) in enumerate(FLAGS):
        norms = ("input_norm",) * before_fc
        norms += {"none": (), "each": ("fc_norm.0", "fc_norm.1", "fc_norm.2"), "joint": ("fc_norm",)}[fc_norm]
        tensors = tensors_of(norms=norms, qk_norm=qk_norm, embedding=True)
        nested = "eagle_config." if dialect == "modelopt" else ""
        config = {"norm_before_residual": residual, f"{nested}norm_before_fc": before_fc, "norm_output": output}
        config |= {"fc_norm": fc_norm != "none"}
        read = read_source(put(tmp_path / str(index), DIALECTS[dialect], tensors, config=config), TARGET)
        assert isinstance(read.config, Eagle3Config)
        found = read.config
        assert (found.norm_before_residual, found.norm_before_fc, found.fc_norm, found.norm_output, found.qk_norm) == (
            residual, before_fc, fc_norm, output, qk_norm,
        )  # fmt: skip
        same_bytes(read, tensors)


@pytest.mark.parametrize("said", [False, True])
def test_norm_output_of_specforge_is_about_the_head_alone(tmp_path: Path, said: bool) -> None:
    read = read_source(put(tmp_path, specforge, tensors_of(), config={"norm_output": said}), TARGET)
    assert isinstance(read.config, Eagle3Config)
    assert not read.config.norm_output
    assert "before the head" in why(read, "norm_output")


def test_flags_that_only_the_tensors_say_are_assumed(tmp_path: Path) -> None:
    tensors = tensors_of(norms=("input_norm", "fc_norm.0", "fc_norm.1", "fc_norm.2"))
    read = read_source(put(tmp_path, specforge, tensors), TARGET)
    assert isinstance(read.config, Eagle3Config)
    assert (read.config.norm_before_fc, read.config.fc_norm) == (True, "each")
    assert why(read, "norm_before_fc")
    assert why(read, "fc_norm")


def test_sglangs_names_of_the_norms_of_states(tmp_path: Path) -> None:
    tensors = tensors_of(norms=("fc_norm.0", "fc_norm.1", "fc_norm.2"))
    alias = {f"fc_norm.{index}.weight": f"aux_norm_{name}.weight" for index, name in enumerate(("low", "mid", "high"))}
    path = put(
        tmp_path,
        specforge,
        tensors,
        config={"use_aux_norm": True},
        change=lambda named: {alias.get(name, name): tensor for name, tensor in named.items()},
    )
    same_bytes(read_source(path, TARGET), tensors)


def test_norm_before_residual_is_true_for_speculators_that_do_not_say_it(tmp_path: Path) -> None:
    """vLLM's reader takes it so (`transformers_utils/configs/speculators/algos.py`)."""
    read = read_source(put(tmp_path, speculators, tensors_of(), config={"norm_before_residual": ...}), TARGET)
    assert isinstance(read.config, Eagle3Config)
    assert read.config.norm_before_residual
    assert "vLLM" in why(read, "norm_before_residual")


def test_a_draft_of_another_width_than_its_targets(tmp_path: Path) -> None:
    tensors = tensors_of(target_width=48, embedding=True)
    wide = TARGET.model_copy(update={"hidden_size": 48})
    said = read_source(put(tmp_path / "a", official, tensors, config={"target_hidden_size": 48}), wide)
    silent = read_source(put(tmp_path / "b", official, tensors), wide)
    assert said.config == silent.config
    assert (said.config.target_width, said.config.hidden_size) == (48, 32)
    assert not why(said, "target_hidden_size")
    assert why(silent, "target_hidden_size")


def test_without_a_head_the_targets_scores(tmp_path: Path) -> None:
    read = read_source(put(tmp_path, official, tensors_of(head=False)), TARGET)
    assert isinstance(read.config, Eagle3Config)
    assert (read.config.own_head, read.config.draft_vocab_size) == (False, 24)
    assert why(read, "own_head")


def test_the_head_of_the_file_wins_over_tied_embeddings(tmp_path: Path) -> None:
    read = read_source(
        put(tmp_path, official, tensors_of(embedding=True), config={"tie_word_embeddings": True}), TARGET
    )
    assert isinstance(read.config, Eagle3Config)
    assert read.config.own_head


@pytest.mark.parametrize(
    ("config", "theta", "scaling"),
    [
        ({"rope_theta": ...}, 1e4, None),
        ({"rope_scaling": None}, 5e5, None),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 1e6, None),
        ({"rope_theta": ..., "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 1e6, None),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 5e5, {"rope_type": "linear", "factor": 2.0}),
        ({"rope_scaling": {"rope_type": "llama3", **ROPE}}, 5e5, {"rope_type": "llama3", **ROPE}),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 2048}},
            5e5,
            {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 2048},
        ),
        (
            {
                "rope_scaling": {
                    "type": "yarn",
                    "factor": 4,
                    "beta_fast": 16,
                    "truncate": False,
                    "attention_factor": 1.2,
                }
            },
            5e5,
            {
                "rope_type": "yarn",
                "factor": 4,
                "beta_fast": 16,
                "truncate": False,
                "attention_factor": 1.2,
                "original_max_position_embeddings": 2048,
            },
        ),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}, 5e5, None),
        ({"rope_scaling": {"rope_type": "default", "type": "mrope", "mrope_section": [1, 1, 2]}}, 5e5, None),
    ],
)
@pytest.mark.parametrize("kind", ["eagle1", "eagle3"])
def test_rotations_are_the_drafts_own(
    tmp_path: Path, kind: str, config: dict[str, Any], theta: float, scaling: dict[str, Any] | None
) -> None:
    write = official_eagle1 if kind == "eagle1" else official
    read = read_source(put(tmp_path, write, tensors_of(kind, embedding=True), config=config), TARGET)
    assert read.config.rope_theta == theta
    assert read.config.rope_scaling == (None if scaling is None else RopeScaling(**scaling))


def test_what_the_files_do_not_say_is_told(tmp_path: Path) -> None:
    gone = dict.fromkeys(("rope_theta", "rms_norm_eps", "num_key_value_heads", "hidden_size", "intermediate_size"), ...)
    gone |= {"draft_vocab_size": ..., "hidden_act": ...}
    read = read_source(put(tmp_path, official, tensors_of(embedding=True), config=gone), TARGET)
    assert (
        read.config.model_dump()
        == Eagle3Config(
            **{**SHAPE, "rope_theta": 1e4, "rms_norm_eps": 1e-6}, layers=USUAL, draft_vocab_size=24, own_embedding=True
        ).model_dump()
    )
    told = {each.field: each.value for each in read.assumed}
    assert told == {
        "rope_theta": 1e4,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "num_kv_heads": 2,
        "hidden_size": 32,
        "expert_width": 48,
        "draft_vocab_size": 24,
        "layers": [2, 4, 5],
        "max_position_embeddings": 4096,
    }
    assert all(each.why for each in read.assumed)


def test_a_plainly_written_draft_leaves_nothing_to_assume(tmp_path: Path) -> None:
    config = {"transformer_layer_config.max_position_embeddings": 4096}
    assert read_source(put(tmp_path, speculators, tensors_of(embedding=True), config=config), TARGET).assumed == ()


@pytest.mark.parametrize("gone", ["d2t", "t2d"])
def test_either_map_of_the_vocabulary_is_enough(tmp_path: Path, gone: str) -> None:
    path = put(tmp_path, official, tensors_of(), change=lambda named: {k: t for k, t in named.items() if k != gone})
    read = read_source(path, TARGET)
    assert read.vocab_W is not None
    assert read.vocab_W.tolist() == IDS
    assert bool(why(read, "d2t")) == (gone == "d2t")


def test_maps_may_have_the_models_prefix(tmp_path: Path) -> None:
    def prefixed(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {f"model.{name}" if name in ("d2t", "t2d") else name: tensor for name, tensor in named.items()}

    read = read_source(put(tmp_path, DIALECTS["nemo"], tensors_of(), change=prefixed), TARGET)
    assert read.vocab_W is not None
    assert read.vocab_W.tolist() == IDS
    assert set(read.extras) == {"model.d2t", "model.t2d"}


def test_a_map_of_everything_is_none(tmp_path: Path) -> None:
    tensors = {**tensors_of(rows=V, embedding=True), "d2t": torch.zeros(V, dtype=torch.int64)}
    assert (
        read_source(
            put(tmp_path, deepspec, tensors, config={"target_layer_ids": [1, 3, 4], "num_aux_hidden_states": 3}), TARGET
        ).vocab_W
        is None
    )


def test_eagle1_with_a_vocabulary_scores_rows_of_the_targets_head(tmp_path: Path) -> None:
    from dialect_files import d2t

    read = read_source(put(tmp_path, official_eagle1, {**tensors_of("eagle1"), "d2t": d2t()}), TARGET)
    assert read.vocab_W is not None
    assert read.vocab_W.tolist() == IDS


def test_overrides_win_and_are_recorded(tmp_path: Path) -> None:
    path = put(tmp_path, specforge, tensors_of(embedding=True, norms=("input_norm",)), config={"rope_theta": ...})
    overrides = {
        "layers": "[1, 3, 4]",
        "norm_output": "true",
        "rope_theta": "250000",
        "own_embedding": "false",
        "norm_before_fc": "false",
        "rope_scaling": '{"rope_type": "linear", "factor": 2}',
    }
    read = read_source(path, TARGET, overrides=overrides)
    assert isinstance(read.config, Eagle3Config)
    assert (read.config.layers, read.config.norm_output, read.config.rope_theta) == ((1, 3, 4), True, 250_000.0)
    assert read.config.rope_scaling == RopeScaling(rope_type="linear", factor=2)
    assert read.record.overrides == overrides
    assert {each.field for each in read.assumed} <= {"max_position_embeddings"}
    assert {"embed_tokens.weight", "input_norm.weight"} <= set(read.extras), "kept for handing back"
    assert not {"embed_tokens.weight", "input_norm.weight"} & set(read.tensors)


def test_the_record_says_how_the_files_were(tmp_path: Path) -> None:
    path = put(tmp_path, nemo_with_buffer, tensors_of(embedding=True))
    record = read_source(path, TARGET).record
    data = (path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert record.files[0].header.encode() == data[8 : 8 + length]
    assert record.config_text == (path / "config.json").read_text()
    assert (record.model_prefix, record.layer_prefix) == ("model.", "layers.0.")
    by_name = {each.name: each for each in record.tensors}
    assert by_name["model.fc.weight"].canonical == "fc.weight"
    assert (by_name["d2t"].dtype, by_name["t2d"].dtype) == ("I64", "BOOL")
    assert by_name["model.layers.0.self_attn.rotary_emb.inv_freq"].canonical is None
    assert {"pad_token_id", "use_cache", "torch_dtype"} <= set(record.unread_keys)
    assert not {"hidden_size", "rope_theta", "vocab_size", "draft_vocab_size"} & set(record.unread_keys)


def nemo_with_buffer(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    config, named = DIALECTS["nemo"](tensors)
    return config, {**named, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}


def test_safetensors_are_read_where_a_pickle_lies_beside_them(tmp_path: Path) -> None:
    path = put(tmp_path, official, tensors_of(embedding=True))
    (path / "pytorch_model.bin").write_bytes(b"not read")
    assert read_source(path, TARGET).record.unread_files == ("pytorch_model.bin",)


def test_heads_wider_than_their_share(tmp_path: Path) -> None:
    """head_dim is the config's or, where it says nothing, the tensors'."""
    tensors = tensors_of(embedding=True)
    for part, rows in {"q": 64, "k": 32, "v": 32}.items():
        tensors[f"layers.0.self_attn.{part}_proj.weight"] = torch.ones(rows, 64)
    tensors["layers.0.self_attn.o_proj.weight"] = torch.ones(32, 64)
    said = read_source(put(tmp_path / "a", official, tensors, config={"head_dim": 16}), TARGET)
    silent = read_source(put(tmp_path / "b", official, tensors), TARGET)
    assert (said.config.head_dim, silent.config.head_dim) == (16, 16)
    assert why(silent, "head_dim")
    assert LLAMA["num_attention_heads"] * 16 == 64
