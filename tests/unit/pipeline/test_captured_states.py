"""What the job's base draft reads of the target reaches the shards, and only what is stored grows by it.

A generate stage of one process: Ray Data's pool is replaced by a call of its actor.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from draft_files import put_draft
from tiny_draft_kind import TinyConfig, tiny_kind
from tiny_models import random_draft, random_eagle3, register_draft
from transformers import AutoModelForCausalLM

from eda_service.config.job import (
    AdaptConfig,
    DatasetSpec,
    EngineKind,
    EvalConfig,
    SelectionConfig,
    SelfGenConfig,
    TargetSpec,
    TrainConfig,
)
from eda_service.config.loss import LossConfig
from eda_service.decoding.build import load_drafts
from eda_service.drafts.checkpoint import save_base_draft
from eda_service.drafts.draft_config import DraftConfig
from eda_service.drafts.kinds import make_draft
from eda_service.drafts.unroll import unroll
from eda_service.errors import ArtifactCorruptError
from eda_service.pipeline import generate
from eda_service.pipeline.select import SELECT, run_select
from eda_service.planning.base_draft import draft_config
from eda_service.records import SelfGenFields, Stage
from eda_service.selection.draft_loss import LargestDraftLoss
from eda_service.storage.inputs.tensor_header import read_header
from eda_service.storage.published.registry import read_draft_manifest
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples.samples import read_samples
from eda_service.storage.samples.shards import Sample, features_path, read_shard
from eda_service.targets.files.shape import FEATURE_BYTES
from eda_service.targets.loader import Target
from eda_service.training.batches import collate

WITH_FC, FROZEN = TrainConfig(train_fc=True), TrainConfig()
NOISY = TrainConfig(loss=LossConfig(feature_noise=0.2))


class OneProcess:
    """What the stage uses of a data set of Ray's; remembers its actor."""

    actor: Any = None

    def __init__(self, rows: list[dict[str, str]], **_: Any) -> None:
        self.rows = rows

    def map_batches(self, actor: Callable[..., Any], *, fn_constructor_args: tuple[Any, ...], **_: Any) -> OneProcess:
        call = OneProcess.actor = actor(*fn_constructor_args)
        made = [call({name: [value] for name, value in row.items()}) for row in self.rows]
        return OneProcess([{name: values[0] for name, values in batch.items()} for batch in made])

    def iter_rows(self) -> list[dict[str, str]]:
        return self.rows


@pytest.fixture
def stage(home: Path, target_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the stage with a base draft; returns its fields and samples."""

    def remote(config: AdaptConfig, directory: Path, kind: EngineKind, captures: tuple[int, ...], scored: bool) -> Any:
        run = RunDir(directory.parent)
        return generate.prepare(run, config, kind=kind, captures=captures, with_reference=scored)

    monkeypatch.setattr(generate, "_prepare", SimpleNamespace(options=lambda **_: SimpleNamespace(remote=remote)))
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray.data, "from_items", OneProcess)
    prompts = home / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"the user {n}"}) + "\n" for n in range(8)))

    def run_stage(
        base_draft: str, draft: DraftConfig | None = None, train: TrainConfig = WITH_FC, method: str = "pca"
    ) -> tuple[SelfGenFields, list[Sample], Path]:
        config = AdaptConfig(
            target=TargetSpec(model=str(target_dir("llama")), dtype="float32"),
            base_draft=base_draft,
            train=train,
            dataset=DatasetSpec(source=str(prompts), num_prompts=8),
            evaluation=EvalConfig(num_prompts=2),
            selfgen=SelfGenConfig(max_new_tokens=8, batch_size=4, shard_size=6, threads_per_actor=1),
            selection=SelectionConfig(method=method, num_reference_prompts=8, reference_max_new_tokens=8, pca_dim=4),
        )
        what = f"{draft is not None}-{train.train_fc}-{train.loss.feature_noise}-{method}"
        run = RunDir.of_job(f"job-{base_draft}-{what}")
        run.create(config, origin="ray")
        fields = generate.run_generate(run, config, draft)
        directory = run.stage_dir(Stage.GENERATE)
        return fields, list(read_shard(directory, "shard-00000")), directory

    return run_stage


def test_shards_hold_what_the_kind_reads(
    home: Path, stage: Callable[..., Any], target_dir: Callable[[str], Path]
) -> None:
    shape = json.loads((put_draft(home, "small") / "config.json").read_text())
    with tiny_kind():
        wide = TinyConfig(**shape, draft_vocab_size=90)
        (put_draft(home, "wide") / "config.json").write_text(wide.model_dump_json())
        assert draft_config("wide@1") == wide
        torch.manual_seed(0)
        draft = make_draft(wide)
        save_base_draft(home / "drafts" / "wide" / "1", draft, torch.arange(90))
        plain_fields, plain, _ = stage("small@1")
        fields, both, directory = stage("wide@1")
        _, fresh, _ = stage("small@1", wide)  # pretraining: the draft that reads them is in no registry
        _, noisy, _ = stage("wide@1", train=NOISY)
        _, started, short = stage("wide@1", train=FROZEN)

    assert fields.scores == plain_fields.scores  # both kinds are measured by what the target's head reads
    model = AutoModelForCausalLM.from_pretrained(target_dir("llama"), dtype=torch.float32).eval()
    for sample, other, again in zip(both, plain, fresh, strict=True):
        assert sample.token_ids == other.token_ids
        assert other.own_head_in is None
        assert torch.equal(sample.head_in, other.head_in)
        assert sample.features.shape == (len(sample.token_ids) - 1, 64)
        with torch.no_grad():
            hidden = model(torch.tensor([sample.token_ids[:-1]]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(sample.features[:, :32].float(), hidden[1][0], rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(sample.head_in.float(), hidden[2][0], rtol=2e-3, atol=2e-3)
        assert torch.equal(sample.features, again.features)
    # Noise is added to what the draft reads of the target, in every epoch anew: the layers are kept, though fc is not
    # trained.
    assert [sample.is_started for sample in noisy] == [False] * len(both)
    assert all(torch.equal(sample.features, other.features) for sample, other in zip(noisy, both, strict=True))

    # What planning counts of a token is what the file holds of it.
    places = read_header(features_path(directory, "shard-00000"))
    num_tokens = sum(len(sample.token_ids) - 1 for sample in both)
    stored = sum(place.shape[0] * place.shape[1] * FEATURE_BYTES for place in places.values())
    assert stored == num_tokens * wide.stored_width(WITH_FC) * FEATURE_BYTES == num_tokens * (64 + 32) * 2

    # Where nothing trains what reads the layers, its result is kept instead of them, and training goes on from there.
    places = read_header(features_path(short, "shard-00000"))
    stored = sum(place.shape[0] * place.shape[1] * FEATURE_BYTES for place in places.values())
    assert stored == num_tokens * wide.stored_width(FROZEN) * FEATURE_BYTES == num_tokens * (32 + 32) * 2
    draft.to(torch.bfloat16).to(torch.float32)
    held = OneProcess.actor.start.__self__.parameters()  # the actor has nothing of the draft in memory but that part
    assert sum(p.numel() for p in held if not p.is_meta) == wide.sizes.fuse
    batches = [collate(samples, max_tokens=64, dtype=torch.float32) for samples in (both, started)]
    assert [batch.is_started for batch in batches] == [False, True]
    embed = torch.nn.Embedding(112, 32)
    of_layers, of_start = (
        list(unroll(draft, embed, each.token_ids_BL, each.features_BLD, 2, is_started=each.is_started))
        for each in batches
    )
    for wanted, got in zip(of_layers, of_start, strict=True):
        assert (got - wanted).norm() < 2e-3 * wanted.norm()  # both were rounded to float16, at other places
    assert torch.equal(batches[0].head_in, batches[1].head_in)


@pytest.mark.parametrize("kind", ["eagle1", "eagle3"])
def test_samples_are_measured_with_the_base_draft(
    home: Path, stage: Callable[..., Any], tiny_target: Target, kind: str
) -> None:
    """In the pass that writes them, without a reference; then those on which it is worst are kept, and shown so."""
    draft, vocab_W = (
        (random_eagle3(tiny_target), torch.arange(90)) if kind == "eagle3" else (random_draft(tiny_target), None)
    )
    base_dir = register_draft(home, draft, tiny_target, vocab_W=vocab_W)
    fields, samples, directory = stage("tiny@1", train=FROZEN, method="draft_loss")
    assert [sample.is_started for sample in samples] == [kind == "eagle3"] * 6
    assert not (directory / generate.REFERENCE_FILE).exists()
    assert (fields.value_name, fields.num_reference_tokens) == ("draft_loss", 0)
    assert fields.inputs["base_draft"] == read_draft_manifest(base_dir).files[0].sha256

    loaded = load_drafts(base_dir, None, target=tiny_target)
    scorer = LargestDraftLoss(SelectionConfig(method="draft_loss")).beside(loaded, tiny_target)
    values = {sample.sample_id: scorer.sample_value(sample) for sample in samples}
    assert {score.sample_id: score.sample_value for score in fields.scores} == pytest.approx(values, abs=2e-3)
    run = RunDir(directory.parent)
    config = run.config()
    run.write_record(generate.GENERATE.record_of(config, fields, seconds=1.0))
    selected = run_select(run, config)
    run.write_record(SELECT.record_of(config, selected, seconds=1.0))
    ranked = sorted(values, key=lambda each: -values[each])
    assert set(selected.selected_ids) == set(ranked[:3])
    page = read_samples(run, kept=None, after=0, limit=10)
    assert page is not None
    assert (page.value_name, page.threshold) == ("draft_loss", pytest.approx(values[ranked[2]], abs=2e-3))

    other = config.model_copy(update={"selection": SelectionConfig(method="pca")})
    with pytest.raises(
        ArtifactCorruptError, match=r"measured by draft_loss, and selection\.method pca asks for distance"
    ):
        run_select(run, other)
