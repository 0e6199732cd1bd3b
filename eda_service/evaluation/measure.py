"""A draft, or a draft and a pack over it, measured on a target: acceptance by decoding, speed, coverage.

Acceptance is measured by decoding and not by replay: with one or two drafts, decoding with them costs less than
answering without a draft, and at T=0 both give the same counts (`replay`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eda_service.config.job import EvalConfig
from eda_service.decoding.request import own_params
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.drafts.coverage import coverage
from eda_service.engines.engine import TargetEngine
from eda_service.errors import DatasetInvalidError
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.bench import Bench
from eda_service.evaluation.replay import Replay, Transcript, transcribe
from eda_service.measured_rows import AcceptanceRow, SpeedRow
from eda_service.measurement import Measurement, advise
from eda_service.progress import ProgressCallback, no_progress
from eda_service.records import BASE
from eda_service.targets.ends import TargetEnds
from eda_service.targets.loader import Target


@dataclass(frozen=True)
class Measured:
    """The results on one target.

    Attributes:
        acceptance: One row for each temperature and draft.
        speed: One row for each temperature and mode, `autoregressive` included; empty if nothing is timed.
        coverage: Coverage by the base draft's vocabulary of the answers at the first temperature.
    """

    num_prompts: int
    acceptance: tuple[AcceptanceRow, ...]
    speed: tuple[SpeedRow, ...]
    coverage: float


def measure(
    target: Target,
    drafts: Mapping[str, LoadedDraft],
    prompts: Sequence[Sequence[int]],
    settings: EvalConfig,
    *,
    timed: bool = True,
    on_progress: ProgressCallback = no_progress,
) -> Measured:
    """Decode the prompts with every draft at every temperature, and time the first of them.

    Args:
        target: Target that fits the drafts.
        drafts: `base_draft`, and `adapted_draft` if there is a pack.
        prompts: Token ids of each prompt.
        settings: Temperatures, chain or tree, caps; `num_prompts` is ignored.
        timed: Whether to measure speed.
        on_progress: Function that receives the progress of the decodings.

    Raises:
        DatasetInvalidError: No prompt is given.
    """
    _require_prompts(prompts)
    longest = max(map(len, prompts)) + settings.max_new_tokens
    bench = Bench(target, dict(drafts), prompts, settings, longest)
    timed_at = (settings.timed_temperatures or settings.temperatures) if timed and settings.num_timed_prompts else ()
    total, done = len(settings.temperatures) * len(drafts) + len(timed_at), 0
    rows: list[AcceptanceRow] = []
    answers: list[list[int]] | None = None
    for temperature in settings.temperatures:
        for name in drafts:
            decoded = bench.decode(name, temperature)
            answers = decoded.token_ids if answers is None else answers
            rows.append(bench.row(name, temperature, decoded))
            done += 1
            on_progress("measure", done, total, "decodings")
    speed: list[SpeedRow] = []
    for measured in bench.speeds(timed_at):
        speed += measured
        done += 1
        on_progress("measure", done, total, "decodings")
    share = coverage(drafts[BASE].vocab_W, answers or []).share
    return Measured(len(prompts), tuple(rows), tuple(speed), share)


def measure_replayed(
    engine: TargetEngine,
    drafts: Mapping[str, LoadedDraft],
    prompts: Sequence[Sequence[int]],
    settings: EvalConfig,
    *,
    on_progress: ProgressCallback = no_progress,
) -> Measured:
    """Measure without decoding with the drafts, for a target in an engine that cannot run them: it answers once, and
    every draft is compared with the answers (`replay`). Chains above T=0 draw their own tokens and have no row; nothing
    is timed.

    Args:
        engine: Engine that runs the target and returns the states that the drafts read.
        drafts: `base_draft`, and `adapted_draft` if there is a pack; they read the same layers.
        prompts: Token ids of each prompt.
        settings: Temperatures, chain or tree, caps; `num_prompts` is ignored.
        on_progress: Function that receives the progress by draft and temperature.

    Raises:
        DatasetInvalidError: No prompt is given.
    """
    _require_prompts(prompts)
    target, captures = engine.ends, drafts[BASE].draft.config.captures
    own = replace(own_params(target.defaults), max_new_tokens=settings.max_new_tokens)
    replayable = [each for each in settings.temperatures if each == 0 or settings.tree is not None] or [0.0]
    rows: list[AcceptanceRow] = []
    written: list[list[int]] = []
    for temperature in replayable:
        answers = transcribe(
            engine, prompts, replace(own, temperature=temperature), batch_size=settings.batch_size, captures=captures
        )
        written = written or [each.token_ids[each.num_prompt_tokens :] for each in answers]
        for name, loaded in drafts.items():
            rows.append(replayed_row(target, name, loaded, answers, settings, temperature))
            on_progress("measure", len(rows), len(replayable) * len(drafts), "drafts")
    return Measured(len(prompts), tuple(rows), (), coverage(drafts[BASE].vocab_W, written).share)


def _require_prompts(prompts: Sequence[Sequence[int]]) -> None:
    if not prompts:
        raise DatasetInvalidError("no prompt is left to measure on; name a data set with others", param="dataset")


def replayed_row(
    target: TargetEnds,
    name: str,
    loaded: LoadedDraft,
    answers: Sequence[Transcript],
    settings: EvalConfig,
    temperature: float,
) -> AcceptanceRow:
    """Compute the acceptance of one draft over answers of the target that hold the states it reads."""
    replay = Replay(
        loaded.draft,
        target.embed,
        loaded.draft.head(target.lm_head, loaded.vocab_W),
        num_draft_tokens=settings.num_draft_tokens,
        tree=settings.tree,
        batch_size=settings.batch_size,
    )
    return summarise(name, temperature, replay.run(answers, temperature), num_draft_tokens=settings.depth)


def conclude(on_target: Measured, on_base: Measured | None = None, *, machine: dict[str, str]) -> Measurement:
    """Make the measurement of a target, compared with that of the draft's own target if given, with advice.

    Args:
        on_target: Results of the draft, and of a pack if there is one.
        on_base: Results of the draft on its own target.
        machine: Facts about the machine that measured, by name.
    """
    found = Measurement(
        num_prompts=on_target.num_prompts,
        acceptance=on_target.acceptance,
        speed=on_target.speed,
        coverage=on_target.coverage,
        base_acceptance=() if on_base is None else on_base.acceptance,
        base_coverage=None if on_base is None else on_base.coverage,
        machine=machine,
    )
    return found.model_copy(update={"advice": advise(found)})
