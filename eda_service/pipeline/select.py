"""Stage select: rank by sample_value, copy the compact set, delete the other hidden states (Eq. 15), and write the
texts of all samples for people to read.

The order protects against a crash: compact files, then the record, then deletion; a re-run deletes what an earlier one
left.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable
from pathlib import Path, PurePosixPath

from eda_service.config.job import AdaptConfig
from eda_service.errors import ArtifactCorruptError
from eda_service.formatting import size
from eda_service.pipeline.prepare import PROMPTS_FILE, read_prompt_file
from eda_service.pipeline.stage import StageRunner
from eda_service.records import FileEntry, SampleScore, SelectionFields, SelectionManifest, SelfGenManifest, Stage
from eda_service.selection.kinds import make_selector
from eda_service.storage.files import file_entry
from eda_service.storage.runs.run import RunDir
from eda_service.storage.samples.samples import SampleText, SampleWriter
from eda_service.storage.samples.shards import read_shard, write_shard

_TOKENS = ".tokens.safetensors"


def run_select(run: RunDir, config: AdaptConfig) -> SelectionFields:
    """Choose the compact set and write it as shards of the same names.

    Raises:
        ArtifactCorruptError: The generate stage's record does not exist, or its values are those of another selector.
    """
    generated = run.require(SelfGenManifest)
    run.progress(Stage.SELECT, step=0, total_steps=1)
    scores, selector = generated.scores, make_selector(config.selection)
    if selector.needs_scores and generated.value_name != selector.value_name:
        raise ArtifactCorruptError(
            f"the samples were measured by {generated.value_name}, and selection.method {config.selection.method} asks "
            f"for {selector.value_name}; redo stage generate, or select by what was measured"
        )
    ranking_started = time.monotonic()
    kept = selector.keep(
        [score.sample_id for score in scores], [score.sample_value for score in scores], seed=config.seed
    )
    chosen = [scores[i] for i in kept]
    ranking_seconds = time.monotonic() - ranking_started
    files = _write_compact(run, generated.files, chosen)
    files += _write_texts(run, generated, {score.sample_id for score in chosen})
    run.progress(Stage.SELECT, step=1, total_steps=1)
    added = generated.scoring_seconds + generated.reference_fit_seconds + ranking_seconds
    return SelectionFields(
        inputs={entry.path: entry.sha256 for entry in generated.files if entry.path.endswith(_TOKENS)},
        files=tuple(files),
        num_candidates=len(scores),
        num_selected=len(chosen),
        keep_fraction=len(chosen) / len(scores),
        threshold=selector.threshold([score.sample_value for score in chosen]),
        value_name=generated.value_name,
        selected_ids=tuple(score.sample_id for score in chosen),
        num_answer_tokens=sum(score.num_answer_tokens for score in chosen),
        selection_seconds=added,
        selection_over_generation_time=added / max(generated.generation_seconds, 1e-9),
    )


def _write_compact(run: RunDir, generated: Iterable[FileEntry], chosen: Iterable[SampleScore]) -> list[FileEntry]:
    """Copy the chosen rows shard by shard; one shard is in memory at a time.

    Args:
        run: Run directory of the job.
        generated: Files of the generate stage.
        chosen: Scores of the chosen samples.
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


def _write_texts(run: RunDir, generated: SelfGenManifest, chosen: set[str]) -> list[FileEntry]:
    """Write the text and the value of every sample, kept or not; one shard is in memory at a time."""
    source, destination = run.stage_dir(Stage.GENERATE), run.stage_dir(Stage.SELECT)
    prompts = [entry for entry in generated.files if entry.path == PROMPTS_FILE]
    run.store.fetch(Stage.GENERATE, prompts)
    messages = {prompt.id: prompt.messages for entry in prompts for prompt in read_prompt_file(source / entry.path)}
    scores = {score.sample_id: score for score in generated.scores}
    is_measured = any(score.sample_value for score in generated.scores)
    writer = SampleWriter(destination)
    tokens = tokens_of(generated.files)
    run.store.fetch(Stage.GENERATE, tokens)
    for name in sorted(map(shard_of, tokens)):
        for sample in read_shard(source, name, features=False):
            score = scores[sample.sample_id]
            writer.add(
                SampleText(
                    sample_id=sample.sample_id,
                    kept=sample.sample_id in chosen,
                    sample_value=score.sample_value if is_measured else None,
                    num_prompt_tokens=sample.num_prompt_tokens,
                    num_answer_tokens=sample.num_answer_tokens,
                    messages=messages.get(_prompt_id(sample.sample_id, messages)),
                    answer=sample.answer,
                )
            )
    written = [file_entry(destination, path) for path in writer.close()]
    run.store.upload(Stage.SELECT, written)
    return written


def _prompt_id(sample_id: str, known: Container[str]) -> str:
    """Return the id of a sample's prompt: from the second answer on, the sample's id is the prompt's with a number."""
    return sample_id if sample_id in known else sample_id.rpartition("#")[0]


def tokens_of(files: Iterable[FileEntry]) -> list[FileEntry]:
    """Select the files that hold samples without their hidden states."""
    return [entry for entry in files if entry.path.endswith(_TOKENS)]


def shard_files(files: Iterable[FileEntry]) -> list[FileEntry]:
    """Select the files of a compact set's shards, without those for people to read."""
    return [entry for entry in files if entry.path.endswith(".safetensors")]


def shard_of(entry: FileEntry) -> str:
    """Return the shard that a file belongs to, by its name."""
    return PurePosixPath(entry.path).name.split(".")[0]


def compact_shards(directory: Path, files: Iterable[FileEntry]) -> list[tuple[str, int]]:
    """List (shard, number of samples) of a compact set, in order."""
    names = sorted({shard_of(entry) for entry in shard_files(files)})
    return [(name, sum(1 for _ in read_shard(directory, name, features=False))) for name in names]


def forget_unselected(run: RunDir) -> int:
    """Delete the generate stage's hidden states; return the bytes freed. Call it after the select record exists.

    On storage a shard that was kept whole is one file for both stages, and is kept.
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
