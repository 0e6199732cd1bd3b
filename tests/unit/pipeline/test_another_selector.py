"""A selector that the project does not have goes through preparation, generation, selection and the plan, without Ray.

It keeps the samples whose first state is longest; oracle: norms of the states that the shards hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from eda_service.config.job import AdaptConfig, DatasetSpec, EvalConfig, Method, SelfGenConfig, TargetSpec, TrainConfig
from eda_service.pipeline.generate import GENERATE, fields_of, prepare, shards_of
from eda_service.pipeline.generation_actor import ShardWriter, WriterSettings
from eda_service.pipeline.prepare import REFERENCE_FILE
from eda_service.pipeline.select import SELECT, run_select
from eda_service.planning.estimate import disk_need_bytes, num_samples, split_samples
from eda_service.planning.shapes import SHAPES, draft_of
from eda_service.records import Stage
from eda_service.selection.kinds import SELECTORS
from eda_service.selection.selector import Array, ReferenceSelector
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples.samples import read_samples
from eda_service.storage.samples.shards import Sample, read_shard


@dataclass(frozen=True)
class NormScorer:
    unit: float

    def save(self, path: Path) -> None:
        path.write_text(repr(self.unit))

    def sample_value(self, sample: Sample) -> float:
        return float(sample.answer_states()[0].double().norm()) / self.unit


class LongestStates(ReferenceSelector):
    value_name = "norm"

    def fit(self, states_ND: Array) -> NormScorer:
        return NormScorer(float(np.linalg.norm(states_ND, axis=1).mean()))

    def load(self, path: Path) -> NormScorer:
        return NormScorer(float(path.read_text()))

    def choose(self, sample_ids: Sequence[str], values: Sequence[float], *, seed: int) -> list[int]:
        return [index for index, value in enumerate(values) if value >= sorted(values)[-3]]

    def threshold(self, kept: Sequence[float]) -> float | None:
        return min(kept) - 1.0

    @property
    def share(self) -> float:
        return 0.25


@pytest.fixture
def plain(target_dir: Callable[[str], Path], tmp_path: Path) -> AdaptConfig:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "the user number {n}"}}\n' for n in range(12)))
    return AdaptConfig(
        target=TargetSpec(model=str(target_dir("llama")), dtype="float32"),
        dataset=DatasetSpec(source=str(prompts), num_prompts=12),
        evaluation=EvalConfig(num_prompts=2),
        selfgen=SelfGenConfig(max_new_tokens=8, batch_size=4, shard_size=5, threads_per_actor=1),
        train=TrainConfig(method=Method.RETRAIN, heldout_fraction=0.0),
    )


def test_a_new_selector_touches_nothing_else(
    plain: AdaptConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SELECTORS, "longest", LongestStates)
    selection = plain.selection.model_copy(
        update={"method": "longest", "num_reference_prompts": 8, "reference_max_new_tokens": 8}
    )
    config = plain.model_copy(update={"selection": selection})
    run = RunDir.of_job("job", tmp_path)
    run.create(plain, origin="ray")
    directory = run.stage_dir(Stage.GENERATE)
    prepared = prepare(run, config, with_reference=True)
    unit = float((directory / REFERENCE_FILE).read_text())

    reference = file_entry(directory, directory / REFERENCE_FILE)
    writer = ShardWriter(WriterSettings(config, directory, reference=(reference,)))
    shards = shards_of(directory, config.selfgen)
    for shard in shards:
        writer({name: [value] for name, value in shard.items()})
    fields = fields_of(config, directory, [shard["shard"] for shard in shards], prepared)
    run.write_record(GENERATE.record_of(config, fields, seconds=1.0))
    lengths = {
        sample.sample_id: float(sample.answer_states()[0].double().norm()) / unit
        for shard in shards
        for sample in read_shard(directory, shard["shard"])
    }
    assert {score.sample_id: score.sample_value for score in fields.scores} == pytest.approx(lengths)
    assert 0.2 < min(lengths.values()) < max(lengths.values()) < 5.0

    selected = run_select(run, config)
    run.write_record(SELECT.record_of(plain, selected, seconds=1.0))
    longest = sorted(lengths, key=lambda each: lengths[each])[-3:]
    assert set(selected.selected_ids) == set(longest)
    assert selected.threshold == pytest.approx(lengths[longest[0]] - 1.0)

    # What every sample says is there to be read, in the order of what it is worth.
    page = read_samples(run, kept=None, after=0, limit=100)
    assert page is not None
    assert page.value_name == fields.value_name == "norm"
    ranked = sorted(lengths, key=lambda each: -lengths[each])
    assert [sample.sample_id for _, sample in page.samples] == ranked
    assert [sample.kept for _, sample in page.samples] == [each in longest for each in ranked]
    tokenizer = AutoTokenizer.from_pretrained(config.target.model)
    tokens = {sample.sample_id: sample for shard in shards for sample in read_shard(directory, shard["shard"])}
    for _, sample in page.samples:
        answer = tokens[sample.sample_id].token_ids[tokens[sample.sample_id].num_prompt_tokens :]
        assert sample.answer == tokenizer.decode(answer, skip_special_tokens=True)
        assert sample.messages is not None
        assert sample.messages[0]["content"].startswith("the user number")

    # 12 prompts of 512 + 8 tokens, 2 bytes each, and a quarter of that; of 10 samples round(2.5) train
    tokens = 12 * (config.selfgen.max_prompt_tokens + 8)
    draft = draft_of(SHAPES["135m"])
    assert disk_need_bytes(config, draft) == tokens * 576 * 2 * 1.25 + 2 * 49_152 * 576 * 2
    assert num_samples(config) == 10
    assert split_samples(config) == (2, 0)
