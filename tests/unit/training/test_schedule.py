"""Learning rate by hand: linear warm-up to the peak, cosine down to 5 % of it; when training stops."""

from __future__ import annotations

import pytest

from eda_service.training.schedule import has_stopped_improving, learning_rate


def rates(total: int, warmup_fraction: float = 0.1) -> list[float]:
    return [learning_rate(step, total, peak=1.0, warmup_fraction=warmup_fraction) for step in range(total)]


def test_by_hand() -> None:
    """100 steps, 10 of warm-up: 0.1, 0.2 .. 1.0; half way down the cosine the mean of 1 and 0.05."""
    got = rates(100)
    assert got[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert got[10] == pytest.approx(1.0)
    assert got[55] == pytest.approx(0.525)
    assert got[-1] == pytest.approx(0.05, abs=1e-3)
    assert got[10:] == sorted(got[10:], reverse=True)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_runs_stay_in_range(total: int) -> None:
    assert all(0.0 < rate <= 1.0 for rate in rates(total, 0.05))


def test_scales_with_the_peak() -> None:
    assert learning_rate(30, 100, peak=4e-5, warmup_fraction=0.05) == pytest.approx(4e-5 * rates(100, 0.05)[30])


@pytest.mark.parametrize(
    ("patience", "lengths", "epochs"),
    [
        (1, [1.0, 1.5, 2.0, 2.0, 3.0], 3),  # as good is not better
        (2, [1.0, 1.5, 2.0, 1.9, 2.1, 2.0, 2.0, 3.0], 6),  # a better one starts the count anew
        (2, [1.0, 0.9, 0.8, 3.0], 2),  # the base draft's acceptance counts
        (3, [1.0, 1.5, 1.4, 1.4], 3),  # three epochs are all there are
        (None, [1.0, 0.9, 0.8, 0.7], 3),
    ],
)
def test_training_stops_after_epochs_without_gain(patience: int | None, lengths: list[float], epochs: int) -> None:
    """Simulated acceptance before training and after each epoch, of 5 steps; how many epochs are trained."""
    step = best_step = 0
    for step in range(0, 5 * len(lengths), 5):
        best_step = step if lengths[step // 5] > max(lengths[: step // 5], default=0.0) else best_step
        if has_stopped_improving(step, best_step, steps_per_epoch=5, patience=patience):
            break
    assert step == 5 * epochs
