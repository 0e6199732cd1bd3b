"""The output of training: the curve, the trackers, the job's progress. Only the worker with rank 0 writes."""

from __future__ import annotations

import time

from eda_service.records import CurvePoint, Stage
from eda_service.storage.runs.curve import CURVE_FILE, Curve
from eda_service.storage.runs.run import RunDir
from eda_service.training.backend import StepLosses
from eda_service.training.trackers.report import Report

_PROGRESS_EVERY_S = 2.0


class TrainLog:
    """Writes the output of one worker if it is rank 0, otherwise nothing.

    Args:
        run: Run directory of the job.
        report: Function that passes metrics to the job's trackers; None: this worker is not rank 0.
    """

    def __init__(self, run: RunDir, report: Report | None) -> None:
        self._run, self._is_first = run, report is not None
        self._report: Report = report or (lambda _, __: None)
        self._curve = Curve(run.stage_dir(Stage.TRAIN))
        self._reported_at = 0.0
        self._first: tuple[int, float] | None = None  # step and time of the first report, for the speed

    def begin(self) -> None:
        """Start a run at its first step: delete the curve that an earlier group without a checkpoint has written."""
        if self._is_first:
            self._curve.keep(lambda point: False)

    def resume(self, step: int) -> None:
        """Resume after this step: later points of the curve are deleted, because their steps will be taken again."""
        if self._is_first:
            self._run.store.shared(CURVE_FILE)
            self._run.event("train_resumed", f"resumed from step {step}", stage=Stage.TRAIN)
            # The measurement at this step came after its checkpoint, and is repeated.
            self._curve.keep(
                lambda point: point.step < step or (point.step == step and point.simulated_acceptance_length is None)
            )

    def stopped_early(self, step: int, best_step: int) -> None:
        """Log that no epoch after `best_step` was better."""
        if self._is_first:
            message = f"stopped at step {step}: simulated acceptance has not risen since step {best_step}"
            self._run.event("train_stopped_early", message, stage=Stage.TRAIN)

    def step(self, step: int, losses: StepLosses, rate: float, seconds: float) -> None:
        """Write a point of the loss curve: the total is the mean over the workers, the terms are this worker's."""
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
        """Report at intervals which step training has reached."""
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
        """Write a point of the acceptance curve."""
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
        """Upload the curve, so that other machines see it."""
        if self._is_first:
            self._run.store.share(CURVE_FILE)
