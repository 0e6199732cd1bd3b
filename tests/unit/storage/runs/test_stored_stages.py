"""Generation on one machine, an interruption, the rest on another, selection on a third: over storage alone, without
Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stored import machine

from eda_service.config.job import AdaptConfig, DatasetSpec, EvalConfig, SelectionConfig, SelfGenConfig, TargetSpec
from eda_service.errors import ArtifactCorruptError
from eda_service.pipeline.generate import GENERATE, fields_of, prepare, prepared_files, shards_of
from eda_service.pipeline.generation_actor import ShardWriter, WriterSettings
from eda_service.pipeline.prepare import REFERENCE_FILE
from eda_service.pipeline.select import SELECT, compact_shards, forget_unselected, run_select
from eda_service.records import Record, SelfGenManifest, Stage
from eda_service.storage.objects import ObjectStore
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Prepared
from eda_service.storage.samples.shard_results import ShardResults


@pytest.fixture
def config(target_dir: Callable[[str], Path], tmp_path: Path) -> AdaptConfig:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "the user number {n}"}}\n' for n in range(20)))
    return AdaptConfig(
        target=TargetSpec(model=str(target_dir("llama")), dtype="float32"),
        base_draft="tiny@1",
        dataset=DatasetSpec(source=str(prompts), num_prompts=20),
        evaluation=EvalConfig(num_prompts=4),
        selfgen=SelfGenConfig(max_new_tokens=8, batch_size=4, shard_size=4, threads_per_actor=1),
        selection=SelectionConfig(num_reference_prompts=8, reference_max_new_tokens=8, pca_dim=4),
    )


def write_shards(run: RunDir, config: AdaptConfig, prepared: Prepared, shards: list[dict[str, str]]) -> None:
    reference = prepared_files(run.root / "generate", prepared)[REFERENCE_FILE]
    directory = run.stage_dir(Stage.GENERATE)
    writer = ShardWriter(WriterSettings(config, directory, reference=(reference,)))
    for shard in shards:
        writer({name: [value] for name, value in shard.items()})


def without_times(record: Record) -> dict[str, object]:
    times = {"created_at", "seconds", "generation_seconds", "scoring_seconds", "reference_seconds"}
    return record.model_dump(mode="json", exclude=times | {"reference_fit_seconds", "files"})


def features_of(record: Record) -> list[str]:
    """Hashes of the hidden states; the ids beside the tokens are in no order of their own."""
    return [entry.sha256 for entry in record.files if ".features." in entry.path]


def test_every_stage_on_another_machine(
    storage: ObjectStore, home: Path, config: AdaptConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.of_job("job")
    run.create(config, origin="ray")
    directory = run.stage_dir(Stage.GENERATE)
    prepared = prepare(run, config, with_reference=True)
    shards = shards_of(directory, config.selfgen)
    names = [shard["shard"] for shard in shards]
    write_shards(run, config, prepared, shards[:2])

    with machine(home / "second"):
        run = RunDir.of_job("job")
        results = ShardResults(run)
        found = results.finished(names)
        assert list(found) == names[:2]
        results.flush()
        write_shards(run, config, prepared, shards)
        assert not list(run.stage_dir(Stage.GENERATE).glob(f"{names[0]}.*"))  # it was there and is not made again
        assert results.finished(names)[names[0]] == found[names[0]]
        fields = fields_of(config, run.root / "generate", names, prepared)
        generated = run.write_record(GENERATE.record_of(config, fields, seconds=1.0))

    with machine(home / "third"):
        run = RunDir.of_job("job")
        selected = run.write_record(SELECT.record_of(config, run_select(run, config), seconds=1.0))
        freed = forget_unselected(run)
        assert freed == sum(entry.size_bytes for entry in generated.files if entry.transient)
        assert forget_unselected(run) == 0
        features = [entry for entry in generated.files if entry.transient]
        with pytest.raises(ArtifactCorruptError, match="is not there"):
            run.store.fetch(Stage.GENERATE, features[:1])

    run = RunDir.of_job("job")
    run.store.fetch(Stage.SELECT, selected.files)
    sizes = compact_shards(run.root / "select", selected.files)
    assert sum(size for _, size in sizes) == selected.num_selected == 8

    monkeypatch.delenv("EDA_STORAGE")  # the same on one disk
    plain = RunDir.of_job("plain")
    plain.create(config, origin="ray")
    prepared = prepare(plain, config, with_reference=True)
    write_shards(plain, config, prepared, shards)
    fields = fields_of(config, plain.root / "generate", names, prepared)
    record = plain.write_record(GENERATE.record_of(config, fields, seconds=1.0))
    assert without_times(record) == without_times(generated)
    assert features_of(run_select(plain, config)) == features_of(selected)


def test_a_shard_that_was_kept_whole_stays(storage: ObjectStore, home: Path, config: AdaptConfig) -> None:
    everything = config.model_copy(update={"selection": SelectionConfig(method="all", num_reference_prompts=8)})
    run = RunDir.of_job("job")
    run.create(everything, origin="ray")
    directory = run.stage_dir(Stage.GENERATE)
    prepared = prepare(run, everything, with_reference=True)
    shards = shards_of(directory, everything.selfgen)
    write_shards(run, everything, prepared, shards)
    fields = fields_of(everything, directory, [shard["shard"] for shard in shards], prepared)
    record = GENERATE.record_of(everything, fields, seconds=1.0)
    assert isinstance(run.write_record(record), SelfGenManifest)
    selected = run.write_record(SELECT.record_of(everything, run_select(run, everything), seconds=1.0))
    shared = {entry.sha256 for entry in record.files if entry.transient} & {entry.sha256 for entry in selected.files}
    assert shared  # one content, one object
    forget_unselected(run)
    with machine(home / "second"):
        RunDir.of_job("job").store.fetch(Stage.SELECT, selected.files)
