"""Stage generate: Ray Data runs self-generation over deterministic shards, resumable shard by shard.

Directory: prepare.json, prompts.jsonl, heldout.jsonl, target_io.safetensors, reference.safetensors, shard-*.{tokens,
features}.safetensors, shard-*.json, record.json. With storage by URL each machine has the files that it wrote or
fetched; the files named in prepare.json and the shards' results are on storage.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import ray
import ray.data

from eda_service.config.job import AdaptConfig, EngineKind, Method, SelfGenConfig
from eda_service.drafts.draft_config import DraftConfig
from eda_service.errors import ArtifactCorruptError, DatasetInvalidError
from eda_service.formatting import duration
from eda_service.pipeline.generation_actor import ShardWriter, WriterSettings
from eda_service.pipeline.prepare import (
    HELDOUT_FILE,
    IO_FILE,
    PROMPTS_FILE,
    REFERENCE_FILE,
    prepare_generation,
    read_prompt_file,
)
from eda_service.pipeline.stage import StageRunner
from eda_service.pipeline.stage_log import EveryFew, timed
from eda_service.pipeline.target_engine import ends_with_engine, engine_of
from eda_service.planning.base_draft import draft_config
from eda_service.planning.placement import placements
from eda_service.raycluster.engine_room import room_for
from eda_service.raycluster.resources import limit_threads
from eda_service.records import FileEntry, SelfGenFields, SelfGenManifest, Stage
from eda_service.selection.kinds import make_selector
from eda_service.selection.selector import DraftSelector, ReferenceSelector
from eda_service.storage.files import file_entry
from eda_service.storage.published.registry import find_draft, read_draft_manifest
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import Prepared, ShardResult
from eda_service.storage.samples.shard_results import ShardResults

logger = logging.getLogger(__name__)


def run_generate(run: RunDir, config: AdaptConfig, draft: DraftConfig | None = None) -> SelfGenFields:
    """Generate, score and describe the self-generated set.

    Args:
        run: Run directory of the job.
        config: Config of the job.
        draft: Config of the draft that reads the states; None: the base draft's.

    Raises:
        BaseDraftMissingError: The base draft does not exist.
        DatasetInvalidError: The fraction of failed prompts is above `selfgen.max_error_fraction`.
    """
    directory = run.stage_dir(Stage.GENERATE)
    shape = draft or draft_config(config.base_draft)
    start_from = config.base_draft if draft is None and shape.is_started(config.train) else None
    selector = make_selector(config.selection)
    is_scored = config.train.method is not Method.RETRAIN or selector.needs_scores
    is_fitted = is_scored and isinstance(selector, ReferenceSelector)
    scored_with = config.base_draft if is_scored and isinstance(selector, DraftSelector) else None
    run.progress(Stage.GENERATE, step=0, total_steps=1)
    kind = engine_of(run, config)
    with timed("preparing prompts and reference"), room_for(placements(config, kind)[Stage.GENERATE]) as room:
        task = _prepare.options(**room.of_task())
        prepared: Prepared = ray.get(task.remote(config, directory, kind, shape.captures, is_fitted))
    files = prepared_files(directory, prepared)
    run.store.fetch(Stage.GENERATE, [files[PROMPTS_FILE]])
    shards = shards_of(directory, config.selfgen)
    names = [shard["shard"] for shard in shards]
    reference = (files[REFERENCE_FILE],) if is_fitted else ()
    writer = WriterSettings(config, directory, kind, reference, shape.captures, start_from, scored_with)
    _write_shards(run, config, shards, writer)
    fields = fields_of(config, directory, names, prepared)
    if scored_with is None:
        return fields
    base_draft = read_draft_manifest(find_draft(scored_with)).files[0].sha256
    return fields.model_copy(update={"inputs": {**fields.inputs, "base_draft": base_draft}})


def fields_of(config: AdaptConfig, directory: Path, shards: Sequence[str], prepared: Prepared) -> SelfGenFields:
    """Describe the finished shards of a generate stage.

    Raises:
        DatasetInvalidError: The fraction of failed prompts is above `selfgen.max_error_fraction`.
        ArtifactCorruptError: A shard is missing.
    """
    finished = ShardResults(RunDir(directory.parent)).finished(shards)
    missing = [shard for shard in shards if shard not in finished]
    if missing:
        raise ArtifactCorruptError(f"shard {missing[0]} is missing after generation; run the job again")
    values = [finished[shard] for shard in shards]
    skipped = tuple(row for value in values for row in value.skipped)
    total = len(skipped) + sum(value.num_samples for value in values)
    if len(skipped) > config.selfgen.max_error_fraction * total:
        raise DatasetInvalidError(
            f"{len(skipped)} of {total} prompts gave no sample, {config.selfgen.max_error_fraction:.0%} are allowed; "
            f"the first: {skipped[0].sample_id}: {skipped[0].reason}",
            param="dataset",
        )
    scores = tuple(score for value in values for score in value.scores)
    files = list(prepared_files(directory, prepared).values())
    files += [entry for value in values for entry in value.files]
    return SelfGenFields(
        inputs={"prompts": files[0].sha256},
        files=tuple(files),
        num_samples=len(scores),
        num_tokens=sum(value.num_tokens for value in values),
        num_answer_tokens=sum(score.num_answer_tokens for score in scores),
        skipped=skipped,
        scores=scores,
        generation_seconds=sum(value.generation_seconds for value in values),
        scoring_seconds=sum(value.scoring_seconds for value in values),
        gate_seconds=prepared.gate_seconds,
        reference_seconds=prepared.reference_seconds,
        reference_fit_seconds=prepared.reference_fit_seconds,
        num_reference_tokens=prepared.num_reference_tokens,
        value_name=make_selector(config.selection).value_name,
        generation_defaults=prepared.generation_defaults,
    )


def prepared_files(directory: Path, prepared: Prepared) -> dict[str, FileEntry]:
    """Return the files that preparation wrote, by name: as it lists them on storage, else as they are in
    the directory.
    """
    entries = prepared.files
    if entries is None:
        entries = tuple(file_entry(directory, path) for path in _written(directory))
    return {entry.path: entry for entry in entries}


def _written(directory: Path) -> list[Path]:
    """List the existing files of preparation."""
    paths = (directory / name for name in (PROMPTS_FILE, HELDOUT_FILE, IO_FILE, REFERENCE_FILE))
    return [path for path in paths if path.exists()]


@ray.remote(max_retries=2, max_calls=1)  # its resources are released before the actors load their targets
def _prepare(
    settings: AdaptConfig, directory: Path, kind: EngineKind, captures: Sequence[int], with_reference: bool
) -> Prepared:
    limit_threads(settings.selfgen.threads_per_actor)
    return prepare(RunDir(directory.parent), settings, kind=kind, captures=captures, with_reference=with_reference)


def prepare(
    run: RunDir,
    config: AdaptConfig,
    *,
    kind: EngineKind = EngineKind.EDA,
    captures: Sequence[int] = (),
    with_reference: bool,
) -> Prepared:
    """Make the files that must exist before shards are generated, unless they exist."""
    done = run.read(Prepared)
    if done is not None:
        return done
    directory = run.stage_dir(Stage.GENERATE)
    with ends_with_engine():
        made = prepare_generation(config, directory, kind=kind, captures=captures, with_reference=with_reference)
    # Hashed one by one when they are needed; if nothing is uploaded, none is.
    files = run.store.upload(Stage.GENERATE, (file_entry(directory, path) for path in _written(directory)))
    return run.settle(made.model_copy(update={"files": files}))


def shards_of(directory: Path, config: SelfGenConfig) -> list[dict[str, str]]:
    """Describe the shards; the shard of a prompt depends only on the prompt file and the config. A prompt that is
    answered several times comes once in each pass over the file, from the second on as `<id>#2` and so on.
    """
    prompts = read_prompt_file(directory / PROMPTS_FILE)
    asked = [
        prompt if number == 1 else dataclasses.replace(prompt, id=f"{prompt.id}#{number}")
        for number in range(1, config.answers_per_prompt + 1)
        for prompt in prompts
    ]
    return [
        {
            "shard": f"shard-{index:05d}",
            "prompts": json.dumps([prompt.as_dict() for prompt in asked[start : start + config.shard_size]]),
        }
        for index, start in enumerate(range(0, len(asked), config.shard_size))
    ]


def _write_shards(run: RunDir, config: AdaptConfig, shards: list[dict[str, str]], writer: WriterSettings) -> None:
    """Run the actor pool over the missing shards, and report each as it finishes."""
    results = ShardResults(run)
    finished = results.finished([shard["shard"] for shard in shards])
    todo = [shard for shard in shards if shard["shard"] not in finished]
    done = len(finished)
    run.progress(Stage.GENERATE, step=done, total_steps=len(shards))
    if not todo:
        results.flush()
        return
    if done:
        run.event("generate_resumed", f"{done} of {len(shards)} shards are there already", stage=Stage.GENERATE)
    started, few = time.monotonic(), EveryFew()
    logger.info("%d of %d shards are to be generated", len(todo), len(shards))
    num_samples = num_skipped = num_tokens = 0
    ray.data.DataContext.get_current().enable_progress_bars = False
    with room_for(placements(config, writer.kind)[Stage.GENERATE]) as room:
        dataset = ray.data.from_items(todo, override_num_blocks=len(todo)).map_batches(
            ShardWriter,
            fn_constructor_args=(writer,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(config.selfgen.num_actors, len(todo))),
            **room.of_actors(),
        )
        for row in dataset.iter_rows():
            done += 1
            result = ShardResult.model_validate_json(row["result"])
            results.note(row["shard"], result)
            spent = time.monotonic() - started
            pace = spent / max(1, done - len(finished))
            num_samples, num_skipped = num_samples + result.num_samples, num_skipped + len(result.skipped)
            num_tokens += sum(score.num_answer_tokens for score in result.scores)
            few.info(
                "%d of %d shards: %d samples, %d prompts skipped, %d answer tokens, %.0f per second; about %s left",
                done, len(shards), num_samples, num_skipped, num_tokens, num_tokens / max(spent, 1e-9),
                duration(pace * (len(shards) - done)), is_last=done == len(shards),
            )  # fmt: skip
            run.progress(Stage.GENERATE, step=done, total_steps=len(shards), eta_s=pace * (len(shards) - done))
    results.flush()


GENERATE = StageRunner(SelfGenManifest, part=lambda config: config.selfgen, run=run_generate)
