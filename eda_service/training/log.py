"""What training says of itself: the curve, the trackers, the job's progress. Rank 0 writes, the others say nothing."""

from __future__ import annotations

import time

from eda_service.records import CurvePoint, Stage
from eda_service.storage.runs.curve import CURVE_FILE, Curve
from eda_service.storage.runs.run import RunDir
from eda_service.training.backend import StepLosses
from eda_service.training.trackers.report import Report

_PROGRESS_EVERY_S = 2.0


class TrainLog:
    """What one worker says: all of it where it is rank 0, else nothing.

    Args:
        run: The job.
        report: Its trackers; None: this worker is not rank 0.
    """

    def __init__(self, run: RunDir, report: Report | None) -> None:
        self._run, self._is_first = run, report is not None
        self._report: Report = report or (lambda _, __: None)
        self._curve = Curve(run.stage_dir(Stage.TRAIN))
        self._reported_at = 0.0
        self._first: tuple[int, float] | None = None  # step and time of the first look, from which the pace is told

    def begin(self) -> None:
        """A run from its first step: what a group that left no checkpoint has written is taken back."""
        if self._is_first:
            self._curve.keep(lambda point: False)

    def resume(self, step: int) -> None:
        """Steps after this one will be taken again."""
        if self._is_first:
            self._run.store.shared(CURVE_FILE)
            self._run.event("train_resumed", f"resumed from step {step}", stage=Stage.TRAIN)
            # What was measured at this step came after its checkpoint, and is measured again.
            self._curve.keep(
                lambda point: point.step < step or (point.step == step and point.simulated_acceptance_length is None)
            )

    def stopped_early(self, step: int, best_step: int) -> None:
        """No epoch after `best_step` was better."""
        if self._is_first:
            message = f"stopped at step {step}: simulated acceptance has not risen since step {best_step}"
            self._run.event("train_stopped_early", message, stage=Stage.TRAIN)

    def step(self, step: int, losses: StepLosses, rate: float, seconds: float) -> None:
        """A point of the loss curve: the total is the mean over the workers, the terms are this worker's."""
        if self._is_first:
            regression, cross_entropy = losses.regression.item(), losses.cross_entropy.item()
            self._curve.append(
                CurvePoint(
                    step=step,
                    loss=losses.total,
                    regression_loss=regression,
                    cross_entropy_loss=cross_entropy,
                    learning_rate=rate,
                    seconds=seconds,
                )
            )
            self._report(
                step,
                {
                    "loss/total": losses.total,
                    "loss/regression": regression,
                    "loss/cross_entropy": cross_entropy,
                    "learning_rate": rate,
                },
            )

    def progress(self, step: int, total_steps: int) -> None:
        """Now and then: where training stands."""
        now = time.monotonic()
        if self._is_first and now - self._reported_at > _PROGRESS_EVERY_S:
            self._reported_at = now
            if self._first is None or step < self._first[0]:
                self._first = step, now
            taken, spent = step - self._first[0], now - self._first[1]
            eta_s = spent / taken * (total_steps - step) if taken else None
            self._run.progress(Stage.TRAIN, step=step, total_steps=total_steps, eta_s=eta_s)
            self._run.store.share(CURVE_FILE)

    def acceptance(self, step: int, value: float, seconds: float) -> None:
        """A point of the acceptance curve."""
        if self._is_first:
            self._curve.append(
                CurvePoint(
                    step=step,
                    loss=0.0,
                    regression_loss=0.0,
                    cross_entropy_loss=0.0,
                    learning_rate=0.0,
                    simulated_acceptance_length=value,
                    seconds=seconds,
                )
            )
            self._report(step, {"acceptance/simulated": value})

    def share(self) -> None:
        """Let other machines see the whole curve."""
        if self._is_first:
            self._run.store.share(CURVE_FILE)
