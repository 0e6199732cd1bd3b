"""What came of jobs that have ended, and how long those that run still take: read from run directories, kept in memory.

Records do not change once they are there, so each job's are read once by this process. Lists of jobs ask for a page of
them at a time.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from api.jobs.remaining import Expected, Remaining, remaining
from eda_service.errors import EdaError
from eda_service.jobstore import Job, Status
from eda_service.planning.outcome import Outcome, outcome_of
from eda_service.records import STAGES, EvalReport, FileEntry, Stage, ValidateRecord
from eda_service.storage.place import OnDisk, current_place
from eda_service.storage.runs.run import RunDir

logger = logging.getLogger(__name__)

T = TypeVar("T")
_MAX_KEPT = 1_024


class _Head(BaseModel):
    """What is looked at of a record of any stage, of which some are megabytes."""

    model_config = ConfigDict(extra="ignore")

    seconds: float
    files: tuple[FileEntry, ...] = ()


class JobOutcomes:
    """Of the jobs of a home.

    Args:
        home: Where run directories are.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._outcomes, self._expected = _Kept[Outcome](), _Kept[Expected]()

    def of(self, job: Job, *, with_disk: bool = False) -> Outcome | None:
        """What came of a job; None while it has not succeeded, or where its records cannot be read.

        Args:
            job: The job.
            with_disk: Whether to look how much its directory holds now.
        """
        if job.status is not Status.SUCCEEDED or job.unreadable is not None:
            return None
        found = self._outcomes.get(job.id, lambda: self._read(job))
        if found is None or not with_disk:
            return found
        return found.model_copy(update={"cost": found.cost.model_copy(update={"disk_bytes": self._disk_bytes(job)})})

    def remaining(self, job: Job) -> Remaining | None:
        """How long a running job still takes; None for others, and where nothing is expected."""
        if job.status is not Status.RUNNING or job.unreadable is not None:
            return None
        expected = self._expected.get(job.id, lambda: self._read_expected(job))
        return None if expected is None else remaining(job, expected, time.time())

    def _read(self, job: Job) -> Outcome | None:
        run = RunDir.of_job(job.id, self._home)
        try:
            report = run.read_record(EvalReport, Stage.EVALUATE, verify=False)
            validated = run.read_record(ValidateRecord, Stage.VALIDATE, verify=False)
            if report is None or validated is None:
                return None
            seconds = {stage: head.seconds for stage in STAGES if (head := _head(run, stage)) is not None}
            return outcome_of(report, job.adapt_config(), seconds, validated.engine)
        except (EdaError, OSError, ValidationError) as error:
            logger.warning("what came of %s cannot be read: %s", job.id, error)
            return None

    def _read_expected(self, job: Job) -> Expected | None:
        try:
            record = RunDir.of_job(job.id, self._home).read_record(ValidateRecord, Stage.VALIDATE, verify=False)
        except (EdaError, OSError):
            return None
        return None if record is None or not record.expected else Expected(record.expected, record.expected_from)

    def _disk_bytes(self, job: Job) -> int | None:
        run = RunDir.of_job(job.id, self._home)
        try:
            if isinstance(current_place(), OnDisk):
                return _size_of(run.root)
            heads = [head for stage in STAGES if (head := _head(run, stage)) is not None]
            return sum(entry.size_bytes for head in heads for entry in head.files if not entry.transient)
        except (EdaError, OSError, ValidationError):
            return None


class _Kept(Generic[T]):
    """The newest values by a job's id; what is not there yet is asked for again."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, job_id: str, read: Callable[[], T | None]) -> T | None:
        """A kept value, or one that is read now."""
        with self._lock:
            found = self._values.get(job_id)
        if found is None:
            found = read()
        if found is not None:
            with self._lock:
                self._values[job_id] = found
                self._values.move_to_end(job_id)
                while len(self._values) > _MAX_KEPT:
                    self._values.popitem(last=False)
        return found


def _head(run: RunDir, stage: Stage) -> _Head | None:
    data = run.store.objects.read(f"{stage.value}/record.json")
    return None if data is None else _Head.model_validate_json(data)


def _size_of(root: Path) -> int:
    """Bytes of the files below a directory; one that goes meanwhile has none."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total
