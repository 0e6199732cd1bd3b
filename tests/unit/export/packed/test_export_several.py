"""`eda export BASE_DRAFT --pack ADAPTER=PACK ...`: what is written, what is refused, and packs that come later."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_packs import publish_adapted
from safetensors.torch import load_file
from tiny_models import random_draft, random_eagle3, register_draft, write_adapter

from eda_service.config.job import Method, Mix, TargetSpec, TrainConfig
from eda_service.drafts.expert import Expert
from eda_service.errors import ArtifactCorruptError, EdaError, InputError, NotFoundError, TargetIncompatibleError
from eda_service.export.export import ExportRequest, export_draft
from eda_service.export.files.directory import read_export
from eda_service.export.files.eda_config import Destination, EdaConfig, ExportForm
from eda_service.export.packed.draft_packs import DraftPacks
from eda_service.export.packed.ffn import PackedFFN, PackedFuse
from eda_service.export.packed.packs_over import AdaptersPack
from eda_service.export.packed.rows import PackedRows
from eda_service.export.packed.several import PacksRequest, export_packs
from eda_service.export.packed.vocabulary import PackedVocabulary
from eda_service.targets.loader import Target, load_target

NARROW = TrainConfig(private_width_fraction=0.5)
FUSED = TrainConfig(mix=Mix.SUM, train_fc=True)
BASE_W, MATH_W, CODE_W = torch.arange(0, 112, 2), torch.arange(0, 60), torch.arange(30, 90)


@pytest.fixture(scope="module")
def adapters(tiny_target: Target, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    """The tiny target with each of two adapters."""
    place, model = tmp_path_factory.mktemp("adapters"), tiny_target.spec.model
    made = {}
    for seed, name in enumerate(("math", "code")):
        adapter = write_adapter(Path(model), place / name, seed=seed, r=4 + 8 * seed)
        made[name] = load_target(TargetSpec(model=model, adapter=str(adapter), dtype="float32"))
    return made


@pytest.fixture
def base_dir(home: Path, tiny_target: Target) -> Path:
    """A base draft `several@1` with a vocabulary."""
    return register_draft(home, random_draft(tiny_target), tiny_target, name="several", vocab_W=BASE_W)


def lora(target: Target) -> str:
    assert target.spec.adapter is not None
    return target.spec.adapter


@pytest.fixture
def run(home: Path, tiny_target: Target, adapters: dict[str, Target], tmp_path: Path) -> Callable[..., Any]:
    """Export packs by the name of their adapter."""

    def export(of: dict[str, str], reference: str = "several", **settings: Any) -> Any:
        named = tuple(AdaptersPack(name, pack, lora(adapters[name])) for name, pack in of.items())
        settings = {"target": tiny_target.spec, "out": tmp_path / "out", "packs": named} | settings
        return export_packs(PacksRequest(reference=reference, **settings), home=home)

    return export


@pytest.fixture
def put(home: Path, base_dir: Path, adapters: dict[str, Target]) -> Callable[..., str]:
    """Publish a pack for an adapter."""

    def publish(name: str, train: TrainConfig, vocab_W: torch.Tensor | None = BASE_W, **settings: Any) -> str:
        return publish_adapted(
            home, settings.pop("base", base_dir), adapters[name], train, vocab_W=vocab_W, name=name, **settings
        )

    return publish


def alone(home: Path, target: Target, reference: str, out: Path) -> Path:
    """The plugin export of one pack."""
    export_draft(ExportRequest(reference, Destination.VLLM, ExportForm.PLUGIN, out, target=target.spec), home=home)
    return out


def held(eda: EdaConfig, out: Path) -> DraftPacks:
    """The export's packs as an engine holds them, loaded."""
    assert eda.places is not None
    rows, places, size = PackedRows(4, 16), eda.places, eda.draft.hidden_size
    ffn = PackedFFN(size, places, Expert(size, eda.draft.expert_width), rows, lambda x: x)
    fuse = PackedFuse(2 * size, size, places.count, rows) if places.has_fuse else None
    vocabulary = None
    if places.has_vocabulary:
        assert eda.draft_vocab_size is not None
        head_UD = load_file(out / "model.safetensors")["lm_head.weight"]
        vocabulary = PackedVocabulary(
            eda.draft_vocab_size, 112, places.count, rows, lambda row_W, x_WD: head_UD.index_copy_(0, row_W, x_WD)
        )
    packs = DraftPacks(eda, rows, ffn, fuse, vocabulary)
    packs.load(load_file(out / "model.safetensors"))
    return packs


def test_one_base_draft_and_each_packs_own_parts(
    run: Any, put: Any, home: Path, adapters: dict[str, Target], tmp_path: Path
) -> None:
    """Each pack's tensors are those of its own export, the rest is there once; the head has the rows of all."""
    packs = {"math": put("math", NARROW, MATH_W), "code": put("code", FUSED, CODE_W)}
    made = run(packs, places=3)
    tensors = load_file(tmp_path / "out/model.safetensors")
    singles = {
        name: load_file(alone(home, adapters[name], packs[name], tmp_path / name) / "model.safetensors")
        for name in packs
    }
    for number, name in enumerate(packs):
        own = {key: value for key, value in singles[name].items() if ".mlp.private." in key or ".mlp.gate." in key}
        own["fc.weight"] = singles[name]["fc.weight"]
        for key, value in own.items():
            assert torch.equal(tensors.pop(f"packs.{number}.{key.removeprefix('layers.0.mlp.')}"), value)
        rows_U = tensors["vocabularies"][number + 1]
        ids_U = torch.arange(len(rows_U)) + tensors["d2t"]
        assert ids_U[rows_U].tolist() == (torch.arange(60) + singles[name]["d2t"]).tolist()
        assert torch.equal(tensors["lm_head.weight"][rows_U], singles[name]["lm_head.weight"])
    assert not [key for key in tensors if key.startswith("packs.")]
    union = set(BASE_W.tolist()) | set(range(90))
    assert made.eda_config.draft_vocab_size == len(tensors["d2t"]) == min(112, len(union) + 60 + 15)
    assert (made.eda_config.places.width, made.eda_config.places.count) == (48, 3)
    _, base = read_export(tmp_path / "out")
    assert base.vocab_W is not None
    assert base.vocab_W.tolist() == BASE_W.tolist()
    assert made.eda_config.gate == "none"


def test_the_printed_command(
    run: Any, put: Any, tiny_target: Target, adapters: dict[str, Target], tmp_path: Path
) -> None:
    made = run({"math": put("math", NARROW), "code": put("code", NARROW)})
    speculative = {"method": "eagle", "model": str(tmp_path / "out"), "num_speculative_tokens": 3}
    assert made.serve_command == (
        f"vllm serve {tiny_target.spec.model} --speculative-config '{json.dumps(speculative)}' --worker-cls "
        "eda_service.export.vllm_pack_worker.PackWorker --enable-lora --max-loras 2 --max-lora-rank 16 --lora-modules "
        f"math={lora(adapters['math'])} code={lora(adapters['code'])}"
    )
    assert made.eda_config.places.has_vocabulary is made.eda_config.places.has_fuse is False
    assert made.eda_config.draft_vocab_size == 56


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "attention": ({"train": TrainConfig(train_attention=True)}, r"math@1 has trained layers\.0\.self_attn\.k_proj"),
    "full_ft": ({"train": TrainConfig(method=Method.FULL_FT)}, "math@1 was made with the method full_ft"),
    "lora": ({"train": TrainConfig(method=Method.LORA, lora_rank=4)}, "math@1 was made with the method lora"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_else_a_pack_carries_is_refused(name: str, run: Any, put: Any, tmp_path: Path) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        run({"math": put("math", settings["train"])})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("trained", ["fc", "vocabulary"])
def test_eagle3_shares_fc_and_vocabulary(trained: str, run: Any, put: Any, home: Path, tiny_target: Target) -> None:
    vocab_W = torch.arange(0, 90)
    base = register_draft(home, random_eagle3(tiny_target), tiny_target, name="three", vocab_W=vocab_W)
    fitting = put("math", NARROW, vocab_W, base=base)
    made = run({"math": fitting}, "three")
    assert made.eda_config.places.has_fuse is made.eda_config.places.has_vocabulary is False
    train = NARROW.model_copy(update={"train_fc": True} if trained == "fc" else {"extend_draft_vocab": 4})
    pack = put("code", train, torch.cat([vocab_W, torch.arange(100, 104)]) if trained != "fc" else vocab_W, base=base)
    with pytest.raises(InputError, match=r"code@1 has trained (fc|lm_head_added)\.weight of its own"):
        run({"math": fitting, "code": pack}, "three", out=Path("nowhere"))


def test_packs_of_another_base_draft_or_adapter_are_refused(
    run: Any, put: Any, home: Path, tiny_target: Target, adapters: dict[str, Target], base_dir: Path
) -> None:
    pack = put("math", NARROW)
    register_draft(home, random_draft(tiny_target, seed=3), tiny_target, name="other")
    with pytest.raises(InputError, match=r"math@1 is over the base draft several@1, not over other@1"):
        run({"math": pack}, "other")
    with pytest.raises(InputError, match=r"math@1 is a pack; name the base draft .* several@1"):
        run({"math": pack}, "math")
    with pytest.raises(TargetIncompatibleError, match=r"pack math@1 was made for another target"):
        run({"code": pack})
    with pytest.raises(InputError, match="is a base model with the adapter"):
        run({"math": pack}, target=adapters["code"].spec)
    named = (AdaptersPack("x", pack, lora(adapters["math"])), AdaptersPack("x", pack, lora(adapters["math"])))
    with pytest.raises(InputError, match="names the adapter 'x' twice"):
        run({}, packs=named)
    with pytest.raises(InputError, match="--places 1 is room for fewer than the 2 packs"):
        run({}, packs=(named[0], AdaptersPack("y", pack, None)), places=1)


def test_a_pack_of_a_whole_model_is_refused(run: Any, home: Path, base_dir: Path, tiny_target: Target) -> None:
    """Its manifest names the target without an adapter, and nobody named another one."""
    reference = publish_adapted(home, base_dir, tiny_target, NARROW, vocab_W=BASE_W, model=tiny_target.spec.model)
    with pytest.raises(TargetIncompatibleError, match=r"a whole model and no LoRA adapter"):
        run({}, packs=(AdaptersPack("x", reference),))


def places_of(packs: DraftPacks) -> dict[str, tuple[str, int]]:
    return {each.adapter: (each.source, each.place) for each in packs.placed()}


def test_packs_come_and_go(run: Any, put: Any, home: Path, adapters: dict[str, Target], tmp_path: Path) -> None:
    """What is put into a place computes what an export with that pack from the start computes."""
    first, second = put("math", NARROW, MATH_W), put("math", FUSED, CODE_W)
    code = put("code", FUSED, CODE_W)
    packs = held(run({"math": first, "code": code}).eda_config, tmp_path / "out")
    assert places_of(packs) == {"math": (first, 1), "code": (code, 2)}
    fresh = held(run({"math": second, "code": code}, out=tmp_path / "fresh").eda_config, tmp_path / "fresh")
    hidden_ND, x_NC, logits = torch.randn(3, 32), torch.randn(3, 64), torch.randn(3, 112)

    def outputs(packs: DraftPacks) -> list[torch.Tensor]:
        packs.set_requests(["math", None, "code"])
        packs.rows.spread(3, torch.tensor([0, 1, 2, 3]))
        assert packs.fuse is not None
        assert packs.vocabulary is not None
        shared: Any = packs.ffn.shared
        shared.load_state_dict(fresh_shared)
        scored = packs.vocabulary(logits[:, packs.vocabulary.token_U.clamp_max(111)])
        return [packs.ffn(hidden_ND), packs.fuse(x_NC), scored]

    fresh_shared = fresh.ffn.shared.state_dict()
    before = outputs(packs)
    packs.put("math", alone(home, adapters["math"], second, tmp_path / "second"))
    for mine, theirs in zip(outputs(packs), outputs(fresh), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert not torch.equal(outputs(packs)[0], before[0])
    packs.remove("math")
    assert places_of(packs) == {"code": (code, 2)}
    packs.put("other", tmp_path / "second")
    assert places_of(packs) == {"other": (second, 1), "code": (code, 2)}
    with pytest.raises(NotFoundError, match=r"no pack drafts for the adapter 'math'; those with one: code, other"):
        packs.remove("math")
    with pytest.raises(InputError, match=r"'third' would be one pack too many: .* 2 places, and code, other have them"):
        packs.put("third", tmp_path / "second")


def test_what_has_no_place_is_refused_and_changes_nothing(
    run: Any, put: Any, home: Path, tiny_target: Target, adapters: dict[str, Target], tmp_path: Path
) -> None:
    packs = held(run({"math": put("math", NARROW)}).eda_config, tmp_path / "out")
    before = {name: buffer.clone() for name, buffer in packs.ffn.named_buffers()}
    other = register_draft(home, random_draft(tiny_target, seed=3), tiny_target, name="other", vocab_W=BASE_W)
    refused = {
        "wide": (put("code", TrainConfig()), InputError, r"private expert of width 48, the places here are 24 wide"),
        "fc": (put("code", NARROW.model_copy(update={"train_fc": True})), InputError, "it has trained a part of it"),
        "words": (put("code", NARROW, CODE_W), InputError, "it has trained a part of it"),
        "base": (
            put("code", NARROW, base=other),
            InputError,
            r"over other@1 is not over the very draft that runs here",
        ),
    }
    directories = {name: alone(home, adapters["code"], pack, tmp_path / name) for name, (pack, *_) in refused.items()}
    problems: list[tuple[Path, type[EdaError], str]] = [(directories[name], *refused[name][1:]) for name in refused]
    problems.append((tmp_path / "out", InputError, "holds no single pack"))
    damaged = alone(home, adapters["math"], "math@1", tmp_path / "damaged")
    with (damaged / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    problems.append((damaged, ArtifactCorruptError, "is not the file that its config speaks of"))
    problems.append((tmp_path / "nowhere", ArtifactCorruptError, "cannot be read as an export"))
    for directory, error, message in problems:
        with pytest.raises(error, match=message):
            packs.put("math", directory)
    assert places_of(packs) == {"math": ("math@1", 1)}
    assert all(torch.equal(buffer, before[name]) for name, buffer in packs.ffn.named_buffers())
