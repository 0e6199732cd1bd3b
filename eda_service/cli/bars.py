"""Bars with amounts, rates and the time left for what a command itself does; silent where nobody looks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from eda_service.cli.console import err
from eda_service.formatting import duration, rate, size
from eda_service.progress import BYTES, ProgressCallback, no_progress


class _Amount(ProgressColumn):
    """`12 of 64 prompts, 3.1/s, 17s left`, as far as it is known."""

    def render(self, task: Task) -> Text:
        """One task's words."""
        if task.total is None:
            return Text()
        unit = str(task.fields["unit"])
        done, total = _amount(task.completed, unit), _amount(task.total, unit)
        parts = [f"{done} of {total} {'' if unit == BYTES else unit}".rstrip()]
        if task.speed and not task.finished:
            parts.append(f"{size(task.speed)}/s" if unit == BYTES else rate(task.speed, ""))
        if task.time_remaining is not None and not task.finished:
            parts.append(f"{duration(task.time_remaining)} left")
        return Text(", ".join(parts))


def _amount(value: float, unit: str) -> str:
    return size(value) if unit == BYTES else f"{value:g}"


class _Bars:
    """One bar per step, in the order in which they began."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: float, total: float | None, unit: str = "") -> None:
        """Draw."""
        if step not in self._tasks:
            self.finish()
            self._tasks[step] = self._progress.add_task(step, total=total, unit=unit)
        self._progress.update(self._tasks[step], completed=done, total=total)

    def finish(self) -> None:
        """What came before is done."""
        for task in self._progress.tasks:
            if not task.finished:
                self._progress.update(task.id, completed=task.total or 1, total=task.total or 1)


@contextlib.contextmanager
def bars(console: Console = err) -> Iterator[ProgressCallback]:
    """Somebody to tell, on standard error: bars in a terminal, nothing elsewhere."""
    if not console.is_terminal:
        yield no_progress
        return
    columns = (TextColumn("{task.description:<9}"), BarColumn(bar_width=32), TimeElapsedColumn(), _Amount())
    with Progress(*columns, console=console) as progress:
        drawn = _Bars(progress)
        yield drawn
        drawn.finish()
