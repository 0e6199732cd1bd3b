"""Stage select: rank by sample_value, copy the compact set, forget the other hidden states (Eq. 15).

Order matters for a crash: compact files, then the record, then deletion; a re-run deletes what an earlier one left.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from eda_service.config.job import AdaptConfig
from eda_service.formatting import size
from eda_service.pipeline.stage import StageRunner
from eda_service.records import FileEntry, SampleScore, SelectionFields, SelectionManifest, SelfGenManifest, Stage
from eda_service.selection.kinds import make_selector
from eda_service.storage.files import file_entry
from eda_service.storage.run import RunDir
from eda_service.storage.shards import read_shard, write_shard


def run_select(run: RunDir, config: AdaptConfig) -> SelectionFields:
    """Choose the compact set and write it as shards of the same names.

    Raises:
        ArtifactCorruptError: The generate stage's record is not there.
    """
    generated = run.require(SelfGenManifest)
    run.progress(Stage.SELECT, step=0, total_steps=1)
    scores, selector = generated.scores, make_selector(config.selection)
    ranking_started = time.monotonic()
    kept = selector.keep(
        [score.sample_id for score in scores], [score.sample_value for score in scores], seed=config.seed
    )
    chosen = [scores[i] for i in kept]
    ranking_seconds = time.monotonic() - ranking_started
    files = _write_compact(run, generated.files, chosen)
    run.progress(Stage.SELECT, step=1, total_steps=1)
    added = generated.scoring_seconds + generated.reference_fit_seconds + ranking_seconds
    return SelectionFields(
        inputs={entry.path: entry.sha256 for entry in generated.files if entry.path.endswith(".tokens.safetensors")},
        files=tuple(files),
        num_candidates=len(scores),
        num_selected=len(chosen),
        keep_fraction=len(chosen) / len(scores),
        threshold=selector.threshold([score.sample_value for score in chosen]),
        selected_ids=tuple(score.sample_id for score in chosen),
        num_answer_tokens=sum(score.num_answer_tokens for score in chosen),
        selection_seconds=added,
        selection_over_generation_time=added / max(generated.generation_seconds, 1e-9),
    )


def _write_compact(run: RunDir, generated: Iterable[FileEntry], chosen: Iterable[SampleScore]) -> list[FileEntry]:
    """Copy the chosen rows shard by shard; one shard is in memory at a time.

    Args:
        run: The job.
        generated: Files of the generate stage.
        chosen: Samples.
    """
    source, destination = run.stage_dir(Stage.GENERATE), run.stage_dir(Stage.SELECT)
    entries: dict[str, list[FileEntry]] = {}
    for entry in generated:
        entries.setdefault(shard_of(entry), []).append(entry)
    rows: dict[str, list[int]] = {}
    for score in chosen:
        rows.setdefault(score.shard, []).append(score.row)
    files = []
    for name, numbers in sorted(rows.items()):
        run.store.fetch(Stage.GENERATE, entries[name])
        paths = write_shard(destination, name, list(read_shard(source, name, sorted(numbers))))
        written = [file_entry(destination, path) for path in paths]
        run.store.upload(Stage.SELECT, written)
        files += written
        run.store.let_go(Stage.GENERATE, [entry for entry in entries[name] if entry.transient])
    return files


def shard_of(entry: FileEntry) -> str:
    """The shard that a file belongs to, by its name."""
    return PurePosixPath(entry.path).name.split(".")[0]


def compact_shards(directory: Path, files: Iterable[FileEntry]) -> list[tuple[str, int]]:
    """(shard, number of samples) of a compact set, in order."""
    names = sorted({shard_of(entry) for entry in files})
    return [(name, sum(1 for _ in read_shard(directory, name, features=False))) for name in names]


def forget_unselected(run: RunDir) -> int:
    """Delete the generate stage's hidden states; returns the bytes freed. Call after the select record is there.

    On storage a shard that was kept whole is one file for both stages, and stays.
    """
    generated = run.read_record(SelfGenManifest, Stage.GENERATE, verify=False)
    selected = run.read_record(SelectionManifest, Stage.SELECT, verify=False)
    assert generated is not None
    assert selected is not None
    unselected = [entry for entry in generated.files if entry.transient]
    return run.store.forget_once(Stage.GENERATE, unselected, keep=selected.files)


def _free_unselected(run: RunDir) -> None:
    freed = forget_unselected(run)
    if freed:
        run.event("hidden_states_deleted", f"{size(freed)} of hidden states freed", stage=Stage.SELECT)


SELECT = StageRunner(
    SelectionManifest, part=lambda config: config.selection, run=run_select, afterwards=_free_unselected
)
