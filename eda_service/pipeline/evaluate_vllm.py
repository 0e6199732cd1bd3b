"""Stage evaluate if vLLM runs the target: each engine in a Ray task and a process of its own, one after the other.

Base draft, adapted draft and the packs to compare with are exported as vLLM loads them, and vLLM counts accepted
tokens. Then the target answers without a draft: the adapted draft's answers must be equal, and with the target's states
every pack is measured on the fixed evaluation (`replay`), always in this way, so that numbers of different days can be
compared.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from eda_service.config.job import AdaptConfig, EngineKind, EvalConfig
from eda_service.decoding.build import load_drafts
from eda_service.decoding.request import SamplingParams, own_params
from eda_service.drafts.checkpoint import LoadedDraft, load_base_draft, load_pack
from eda_service.engines.engine import Answer, with_seeds
from eda_service.engines.vllm import DraftCounts, VllmDraft, VllmEngine
from eda_service.errors import EdaError
from eda_service.evaluation.lossless import check_lossless
from eda_service.evaluation.measure import replayed_row
from eda_service.evaluation.replay import Transcript
from eda_service.evaluation.speed import BASELINE, speed_rows
from eda_service.export.export import ExportRequest, export_source
from eda_service.export.files.eda_config import Destination, ExportForm
from eda_service.export.source import BASE_DRAFT, Source, find_source
from eda_service.measured_rows import AcceptanceRow, LosslessCheck
from eda_service.pipeline.heldout import held_out
from eda_service.pipeline.measurements import Measurements
from eda_service.pipeline.side_by_side import PREFIX, load_rivals, measure_fixed
from eda_service.pipeline.target_engine import ends_with_engine, open_vllm
from eda_service.planning.placement import placements
from eda_service.raycluster.engine_room import room_for
from eda_service.raycluster.resources import limit_threads
from eda_service.records import ADAPTED, BASE, FileEntry, FixedScores, Rival, Stage, TargetFingerprint
from eda_service.storage.published.fixed_evaluation import FixedEvaluation
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.rivals import Rivals
from eda_service.storage.runs.run import RunDir
from eda_service.targets.ends import TargetEnds
from eda_service.targets.load_ends import load_ends

Inputs = Mapping[Stage, Sequence[FileEntry]]


@dataclass(frozen=True)
class DraftRun:
    """The results of vLLM with one draft.

    Attributes:
        acceptance: One row for each temperature.
        greedy: Answers at T=0, by prompt.
        rates: Tokens per second of each repeat, one request at a time, by temperature.
    """

    acceptance: tuple[AcceptanceRow, ...]
    greedy: list[list[int]]
    rates: dict[float, list[float]]


@dataclass(frozen=True)
class Plain:
    """The results of the target without a draft, and the drafts' acceptance by replay on the fixed evaluation."""

    rates: dict[float, list[float]]
    lossless: LosslessCheck
    fixed: FixedScores | None
    num_prompts: int
    generation_defaults: dict[str, Any]


def measure_with_vllm(
    run: RunDir, config: AdaptConfig, inputs: Inputs, rivals: Rivals, fingerprint: TargetFingerprint
) -> Measurements:
    """Measure all numbers of the report.

    Args:
        run: Run directory of the job.
        config: Config of the job.
        inputs: Files of earlier stages.
        rivals: Published packs to measure beside the job's own.
        fingerprint: Fingerprint of the target, as it was validated.
    """
    placement = placements(config, EngineKind.VLLM)[Stage.EVALUATE]
    drafted: dict[str, DraftRun] = {}
    left_out: dict[str, str] = {}
    names = (BASE, ADAPTED, *(PREFIX + pack for pack in rivals.packs))
    for step, name in enumerate(names, start=1):
        with room_for(placement) as room:
            task = _drafted.options(**room.of_task())
            found: DraftRun | str = ray.get(task.remote(run.root, config, inputs, name, fingerprint))
        if isinstance(found, str):
            left_out[name] = found
        else:
            drafted[name] = found
        run.progress(Stage.EVALUATE, step=step, total_steps=len(names) + 1)
    greedy = drafted[ADAPTED].greedy
    with room_for(placement) as room:
        plain_task = _plain.options(**room.of_task())
        plain: Plain = ray.get(plain_task.remote(run.root, config, inputs, rivals, fingerprint, greedy))
    modes = {BASELINE: plain.rates, **{name: each.rates for name, each in drafted.items()}}
    chain = config.evaluation.num_draft_tokens
    speed = [
        row
        for temperature in plain.rates
        for row in speed_rows(
            {name: rates[temperature] for name, rates in modes.items()},
            {name: 0 if name == BASELINE else chain for name in modes},
            temperature,
        )
    ]
    own = [drafted[name].acceptance for name in (BASE, ADAPTED)]
    return Measurements(
        acceptance=tuple(row for rows in zip(*own, strict=True) for row in rows),
        speed=tuple(row for row in speed if row.mode in (BASELINE, BASE, ADAPTED)),
        lossless=plain.lossless,
        rivals=tuple(
            Rival(
                pack=pack,
                roles=roles,
                acceptance=drafted[PREFIX + pack].acceptance if PREFIX + pack in drafted else (),
                speed=tuple(row for row in speed if row.mode == PREFIX + pack),
                left_out=left_out.get(PREFIX + pack),
            )
            for pack, roles in rivals.packs.items()
        ),
        fixed=plain.fixed,
        num_prompts=plain.num_prompts,
        generation_defaults=plain.generation_defaults,
    )


@ray.remote(max_retries=2, max_calls=1)
def _drafted(
    run_root: Path, config: AdaptConfig, inputs: Inputs, name: str, fingerprint: TargetFingerprint
) -> DraftRun | str:
    """Decode and time with one draft inside vLLM; the process ends with the task, and vLLM with it.

    Returns:
        The results; for a rival that cannot be loaded, the reason.
    """
    run = _fetched(run_root, config, inputs)
    with tempfile.TemporaryDirectory(prefix="eda-export-") as scratch, ends_with_engine():
        ends = load_ends(config.target)
        try:
            source = _source(run, config, name, fingerprint)
        except (EdaError, OSError, ValueError) as error:
            if name in (BASE, ADAPTED):
                raise
            return str(error)[:400]
        draft = _export(source, config, ends, Path(scratch) / "draft")
        engine = open_vllm(config, ends, captures=None, draft=draft, batch_size=config.evaluation.batch_size)
        prompts = held_out(run, config, ends.tokenizer).token_ids
        rows: list[AcceptanceRow] = []
        greedy: list[list[int]] | None = None
        for temperature in temperatures_of(config.evaluation):
            before = engine.counts()
            answers = _decode(engine, prompts, _params(config, ends, temperature), config.evaluation.batch_size)
            rows.append(row_of(name, temperature, engine.counts().since(before)))
            if temperature == 0 or greedy is None:
                greedy = answers
        return DraftRun(tuple(rows), greedy or [], _rates(engine, prompts, config))


@ray.remote(max_retries=2, max_calls=1)
def _plain(
    run_root: Path,
    config: AdaptConfig,
    inputs: Inputs,
    rivals: Rivals,
    fingerprint: TargetFingerprint,
    speculative: list[list[int]],
) -> Plain:
    """Answer without a draft: the baseline's time, losslessness, and the fixed evaluation."""
    run, settings = _fetched(run_root, config, inputs), config.evaluation
    with ends_with_engine():
        ends = load_ends(config.target)
        own = load_drafts(find_draft(config.base_draft), run.stage_dir(Stage.TRAIN) / "pack", target=ends)
        drafts = {ADAPTED: own, **load_rivals(rivals, ends, fingerprint).drafts}
        layers = sorted({layer for each in drafts.values() for layer in each.draft.config.captures})
        engine = open_vllm(config, ends, captures=layers, batch_size=settings.batch_size)
        heldout = held_out(run, config, ends.tokenizer)
        greedy = _params(config, ends, 0.0)
        answers = _answers(engine, heldout.token_ids, greedy, settings.batch_size, layers)
        lossless = check_lossless(engine, heldout.token_ids, [each.token_ids for each in answers], speculative, greedy)

        def length(prompts: Sequence[list[int]], found: Sequence[Answer], draft: LoadedDraft, chain: int) -> float:
            texts = _transcripts(prompts, found, layers, draft)
            chains = settings.model_copy(update={"num_draft_tokens": chain, "tree": None})
            return replayed_row(ends, ADAPTED, draft, texts, chains, 0.0).acceptance_length

        def on_fixed(fixed: FixedEvaluation, prompts: Sequence[list[int]], draft: LoadedDraft) -> float:
            params = replace(greedy, max_new_tokens=fixed.max_new_tokens)
            found = _answers(engine, prompts, params, settings.batch_size, layers)
            return length(prompts, found, draft, fixed.num_draft_tokens)

        fixed = None
        if temperatures_of(settings)[0] == 0:
            measured = {
                name: length(heldout.token_ids, answers, draft, settings.num_draft_tokens)
                for name, draft in drafts.items()
            }
            try:
                fixed = measure_fixed(
                    config,
                    ends,
                    fingerprint,
                    owner=rivals.owner,
                    drafts=drafts,
                    heldout=heldout.prompts,
                    measured=measured,
                    length=on_fixed,
                )
            except (EdaError, OSError, ValueError) as error:
                run.event("fixed_evaluation_left_out", str(error)[:400], stage=Stage.EVALUATE, level="warning")
        return Plain(
            rates=_rates(engine, heldout.token_ids, config),
            lossless=lossless,
            fixed=fixed,
            num_prompts=len(heldout.prompts),
            generation_defaults=ends.defaults.said,
        )


def temperatures_of(settings: EvalConfig) -> tuple[float, ...]:
    """Return the temperatures measured in vLLM; its CPU build (0.32) changes the target's distribution above T=0 with a
    draft.
    """
    if torch.cuda.is_available():
        return settings.temperatures
    return tuple(each for each in settings.temperatures if each == 0) or (0.0,)


def row_of(name: str, temperature: float, counts: DraftCounts) -> AcceptanceRow:
    """Make a row from vLLM's counters."""
    rounds, accepted = max(1, counts.num_rounds), sum(counts.num_accepted)
    chain = len(counts.num_accepted)
    return AcceptanceRow(
        draft=name,
        temperature=temperature,
        mean_accepted=accepted / rounds,
        acceptance_length=1.0 + accepted / rounds,
        acceptance_rate=accepted / max(1, rounds * chain),
        acceptance_by_position=tuple(count / rounds for count in counts.num_accepted),
        num_rounds=counts.num_rounds,
        num_new_tokens=counts.num_rounds + accepted,
    )


def _fetched(run_root: Path, config: AdaptConfig, inputs: Inputs) -> RunDir:
    limit_threads(config.evaluation.threads)
    run = RunDir(run_root)
    for stage, entries in inputs.items():
        run.store.fetch(stage, entries)
    return run


def _source(run: RunDir, config: AdaptConfig, name: str, fingerprint: TargetFingerprint) -> Source:
    """Find a draft of this job, or a published pack.

    Raises:
        EdaError: The pack does not exist, is damaged, or was made for another target.
    """
    if name.startswith(PREFIX):
        found = find_source(name.removeprefix(PREFIX))
        found.check(fingerprint)
        return found
    base_dir, dtype = find_draft(config.base_draft), torch.float32
    is_base = name == BASE
    return Source(
        reference=config.base_draft if is_base else run.job_id,
        method=BASE_DRAFT if is_base else config.train.method.value,
        base_draft=config.base_draft,
        base_dir=base_dir,
        loaded=load_base_draft(base_dir, dtype=dtype)
        if is_base
        else load_pack(base_dir, run.stage_dir(Stage.TRAIN) / "pack", dtype=dtype),
        sha256={},
        target=config.target,
        check=lambda _: None,
    )


def _export(source: Source, config: AdaptConfig, ends: TargetEnds, directory: Path) -> VllmDraft:
    """Export a draft as vLLM loads it, with its gate."""
    request = ExportRequest(source.reference, Destination.VLLM, ExportForm.PLUGIN, directory)
    made = export_source(request, source, ends)
    return VllmDraft(directory, made.eda_config.vllm_method, config.evaluation.num_draft_tokens)


def _params(config: AdaptConfig, ends: TargetEnds, temperature: float) -> SamplingParams:
    own = own_params(ends.defaults)
    return replace(own, temperature=temperature, max_new_tokens=config.evaluation.max_new_tokens)


def _answers(
    engine: VllmEngine,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    batch_size: int,
    captures: Sequence[int] | None,
) -> list[Answer]:
    longest = max(map(len, prompts)) + params.max_new_tokens + 1
    found = engine.answer(with_seeds(params, prompts), batch_size=batch_size, max_tokens=longest, captures=captures)
    return list(found.values())


def _decode(
    engine: VllmEngine, prompts: Sequence[Sequence[int]], params: SamplingParams, batch_size: int
) -> list[list[int]]:
    return [each.token_ids for each in _answers(engine, prompts, params, batch_size, None)]


def _transcripts(
    prompts: Sequence[Sequence[int]], answers: Sequence[Answer], layers: Sequence[int], loaded: LoadedDraft
) -> list[Transcript]:
    """Make transcripts: answers with the states that one draft reads, from the layers that were kept."""
    wanted = loaded.draft.config.captures
    texts = []
    for ids, answer in zip(prompts, answers, strict=True):
        if answer.states is None:
            continue
        features = answer.states.head_in
        if wanted:
            parts = answer.states.draft_in.chunk(len(layers), dim=-1)
            features = torch.cat([parts[layers.index(layer)] for layer in wanted], dim=-1)
        texts.append(Transcript([*ids, *answer.token_ids], len(ids), features))
    return texts


def _rates(engine: VllmEngine, prompts: Sequence[Sequence[int]], config: AdaptConfig) -> dict[float, list[float]]:
    """Measure tokens per second, one request at a time, of each repeat; a first run of one prompt
    triggers compilation.
    """
    settings = config.evaluation
    timed = prompts[: settings.num_timed_prompts]
    rates: dict[float, list[float]] = {}
    for temperature in temperatures_of(settings) if timed else ():
        params = _params(config, engine.ends, temperature)
        _decode(engine, timed[:1], params, 1)
        repeats = rates.setdefault(temperature, [])
        for _ in range(settings.num_timed_repeats):
            began = time.perf_counter()
            tokens = sum(len(_decode(engine, [ids], params, 1)[0]) for ids in timed)
            repeats.append(tokens / (time.perf_counter() - began))
    return rates
