"""The outcome of a job in the few numbers that people ask for: before and after, prompts, and cost.

It is computed from records alone, so that jobs of earlier versions have it too.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from eda_service.config.job import AdaptConfig, EngineKind
from eda_service.measured_rows import Frozen, SpeedRow
from eda_service.planning.placement import placements
from eda_service.records import ADAPTED, BASE, EvalReport, Stage
from eda_service.storage.published.packs import measured_on

_PLAIN = "autoregressive"


class DraftNumbers(Frozen):
    """One draft on the tuned target."""

    acceptance_length: float = Field(description="tokens a round, one of the target's own among them")
    acceptance_rate: float = Field(description="accepted / proposed")
    tokens_per_s: float | None = Field(description="null: speed was not measured")
    speedup: float | None = Field(description="over decoding without a draft; null: speed was not measured")


class Cost(Frozen):
    """The cost of a job."""

    seconds: float = Field(description="of its stages together, without waiting")
    core_hours: float = Field(description="threads of each stage's workers times its time: what they held")
    gpu_hours: float = Field(description="likewise of GPUs")
    disk_bytes: int | None = Field(None, description="that its directory holds now; null: not looked up")


class Outcome(Frozen):
    """The base draft and the adapted one, measured on the same target and prompts in the same run."""

    before: DraftNumbers
    after: DraftNumbers
    temperature: float = Field(description="of the acceptance")
    timed_temperature: float | None = Field(description="of the speeds; null: none was timed")
    plain_tokens_per_s: float | None = Field(description="without a draft; null: speed was not measured")
    measured_on: str = Field(description="which held-out prompts, in words")
    cost: Cost


def outcome_of(
    report: EvalReport, config: AdaptConfig, seconds: Mapping[Stage, float], engine: EngineKind
) -> Outcome | None:
    """Compute the outcome of a job that was evaluated; None if base or adapted draft were not measured.

    Args:
        report: Evaluation of the job.
        config: Config of the job as it ran.
        seconds: Seconds of each stage.
        engine: Engine that ran its target.
    """
    temperature = report.acceptance[0].temperature if report.acceptance else 0.0
    accepted = {row.draft: row for row in report.acceptance if row.temperature == temperature}
    if not {BASE, ADAPTED} <= set(accepted):
        return None
    timed = report.speed[0].temperature if report.speed else None
    speeds = {row.mode: row for row in report.speed if row.temperature == timed}

    def numbers(draft: str) -> DraftNumbers:
        row, speed = accepted[draft], speeds.get(draft)
        return DraftNumbers(
            acceptance_length=row.acceptance_length,
            acceptance_rate=row.acceptance_rate,
            tokens_per_s=_rate(speed),
            speedup=None if speed is None else speed.speedup_over_autoregressive,
        )

    return Outcome(
        before=numbers(BASE),
        after=numbers(ADAPTED),
        temperature=temperature,
        timed_temperature=timed,
        plain_tokens_per_s=_rate(speeds.get(_PLAIN)),
        measured_on=report.measured_on or measured_on(config),
        cost=_cost(config, seconds, engine),
    )


def _rate(row: SpeedRow | None) -> float | None:
    return None if row is None else row.tokens_per_s


def _cost(config: AdaptConfig, seconds: Mapping[Stage, float], engine: EngineKind) -> Cost:
    placed = placements(config, engine)
    cores = sum(max(1, placed[stage].workers) * max(1, placed[stage].threads) * each for stage, each in seconds.items())
    gpus = sum(placed[stage].workers * placed[stage].gpus * each for stage, each in seconds.items())
    return Cost(seconds=sum(seconds.values()), core_hours=cores / 3600.0, gpu_hours=gpus / 3600.0)
