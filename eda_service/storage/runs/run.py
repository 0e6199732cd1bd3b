"""The run directory of one job: the only channel between the job's processes and the API.

    <home>/runs/<job_id>/
        job.json            the config of its kind with its origin, and further contents of its row (`JobRowFields`)
        progress.json       heartbeat: stage and its start, percent, step, total_steps, eta_s, updated_at, attempt, pid
        events.jsonl        one line per event, appended: {"at", "level", "type", "message", "stage"}
        rivals.json         packs to measure beside the job's own (`eda_service.storage.runs.rivals`), by the dispatcher
        cancelled.json      the attempt that was cancelled, if one was
        result.json         end of an attempt: {"attempt", "status": "succeeded", "pack": ...} or {.., "error": {...}}
        driver.lock         held by the attempt's driver while it lives: two attempts never write at once
        driver.attempt      the newest attempt that has asked for the lock: an older driver that sees it ends
        reserve             space for reporting a full disk, while a driver runs
        <stage>/record.json the stage's record, last file of its directory
        logs/<stage>.log    the log of the stage

Workers never open the job database; the dispatcher reads these files. With storage by URL (ADR 0020) the directory is
scratch space of one machine: the small files are objects below `runs/<job_id>/`, and stages upload and fetch the large
ones that their records name.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from eda_service.config.job import AdaptConfig
from eda_service.config.tasks import Task, kind_of
from eda_service.environment import Environment
from eda_service.errors import ArtifactCorruptError, EdaError, InputError, WorkerLostError
from eda_service.records import Record, Stage
from eda_service.storage.files import write_bytes
from eda_service.storage.place import current_place
from eda_service.storage.runs.job_row_fields import JobRowFields
from eda_service.storage.runs.state import (
    AttemptResult,
    Cancelled,
    EventLine,
    Failed,
    Failure,
    JobFile,
    StageProgress,
    StateFile,
    StateT,
    Succeeded,
    encoded,
)

_RESERVE, _RESERVE_BYTES = "reserve", 64 << 10
_ATTEMPT = "driver.attempt"
RecordT = TypeVar("RecordT", bound=Record)


def home_dir() -> Path:
    """Return the root of all state: `EDA_HOME`, default `~/.eda`."""
    return Environment.read().home.expanduser().resolve()


def calibration_path(home: Path) -> Path:
    """Return the file with the real costs of the last job that ended, compared with its plan; the next plans use it."""
    return home / "calibration.json"


def current_attempt() -> int:
    """Return the number of the attempt this process works for: `EDA_ATTEMPT`, set by the dispatcher; default 1."""
    return Environment.read().attempt


class RunDir:
    """Paths and small files of one job.

    Args:
        root: Directory of the job; its name is the job's id.
        attempt: Attempt for which this process writes heartbeats and results; default: that of the environment.
    """

    def __init__(self, root: Path, *, attempt: int | None = None) -> None:
        self.root = root
        self.job_id = root.name
        self.attempt = current_attempt() if attempt is None else attempt
        self.store = current_place().run(root)

    @classmethod
    def of_job(cls, job_id: str, home: Path | None = None) -> RunDir:
        """Return the run directory of a job under `home` (default: `home_dir()`)."""
        return cls((home or home_dir()) / "runs" / job_id)

    def create(
        self, config: Task, *, origin: str, created_at: int | None = None, row_fields: JobRowFields | None = None
    ) -> None:
        """Write `job.json`; the directory counts as a job once this file exists.

        Args:
            config: Config of the job.
            origin: The word `api`, or another word for the starter of the job.
            created_at: Time of creation, in seconds since the epoch; None: now.
            row_fields: Further contents of the job's row, needed if the row is lost.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        at = int(time.time()) if created_at is None else created_at
        self.write(JobFile(id=self.job_id, origin=origin, created_at=at, config=config, row_fields=row_fields))

    @property
    def home(self) -> Path:
        """Root of all state; this directory is a part of it."""
        return self.root.parents[1]

    @property
    def is_job(self) -> bool:
        """Whether `job.json` exists."""
        return self.store.objects.read(JobFile.FILE) is not None

    def read_job(self) -> JobFile | None:
        """Read `job.json`; None if it does not exist.

        Raises:
            ArtifactCorruptError: The file does not validate.
        """
        try:
            return self.read(JobFile)
        except ValueError as error:
            raise ArtifactCorruptError(f"{self.root / JobFile.FILE} is missing or invalid: {error}") from error

    def task(self) -> Task:
        """Read the job's config, of whichever kind it is.

        Raises:
            ArtifactCorruptError: `job.json` is missing or does not validate.
        """
        job = self.read_job()
        if job is None:
            raise ArtifactCorruptError(f"{self.root / JobFile.FILE} is missing or invalid: there is no such file")
        return job.config

    def config(self) -> AdaptConfig:
        """Read the config of an adaptation.

        Raises:
            InputError: The job is of another kind.
            ArtifactCorruptError: `job.json` is missing or does not validate.
        """
        task = self.task()
        if not isinstance(task, AdaptConfig):
            raise InputError(f"job {self.job_id} is no adaptation but of kind {kind_of(task).value}", param="job-id")
        return task

    def last_attempt(self) -> int:
        """Return the highest attempt that any of its files names, at least 1."""
        told = [1]
        for read in (self.read_progress, self.read_result):
            with suppress(ValueError):
                if (found := read()) is not None:
                    told.append(found.attempt)
        with suppress(ValueError):
            told.append(self._newest_attempt())
        return max(told)

    def stage_dir(self, stage: Stage) -> Path:
        """Return the directory of one stage; it is created."""
        path = self.root / stage.value
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log_path(self, stage: Stage) -> Path:
        """Return the log file of one stage; its directory is created."""
        path = self.root / _log_name(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def share_log(self, stage: Stage) -> None:
        """Upload a stage's log as it is now, so that other machines can read it."""
        self.store.share(_log_name(stage))

    def logs(self) -> dict[Stage, Path]:
        """Return the existing log files, in the order of the stages."""
        paths = {stage: self.store.shared(_log_name(stage)) for stage in Stage}
        return {stage: path for stage, path in paths.items() if path.is_file()}

    def write_record(self, record: RecordT) -> RecordT:
        """Publish a stage's record, the last write of the stage; return the record that counts.

        On storage the first record counts: an attempt that was believed dead may end its stage at the same time on
        another machine, and later stages were made from the first record.
        """
        name, data = _record_name(record.stage), encoded(record)
        settled = self.store.settle(name, data)
        if settled == data:
            return record
        try:
            return type(record).model_validate_json(settled)
        except ValidationError:  # the existing file is no valid record
            self.store.objects.write(name, data)
        return record

    def read_record(self, kind: type[RecordT], stage: Stage, *, verify: bool = True) -> RecordT | None:
        """Read a stage's record if it exists, parsed and (by default) with its files' hashes checked; else None.

        On storage a file's name is its hash, and `fetch` checks it when the file is needed.

        Raises:
            ArtifactCorruptError: The record does not parse, or a file differs from it.
        """
        data = self.store.objects.read(_record_name(stage))
        if data is None:
            return None
        try:
            record = kind.model_validate_json(data)
        except ValidationError as error:
            raise ArtifactCorruptError(f"{self.root / _record_name(stage)} does not parse: {error}") from error
        if verify:
            self.store.verify(stage, record.files)
        return record

    def has_record(self, stage: Stage) -> bool:
        """Whether a stage has ended with a record, whether or not its files still exist."""
        return self.store.objects.read(_record_name(stage)) is not None

    def require(self, kind: type[RecordT]) -> RecordT:
        """Return the record of an earlier stage, its files' hashes checked.

        Raises:
            ArtifactCorruptError: The record does not exist or does not parse, or a file differs from it.
        """
        record = self.read_record(kind, kind.STAGE)
        if record is None:
            stage = kind.STAGE.value
            raise ArtifactCorruptError(f"{self.root} has no {stage} record; run stage {stage} first")
        return record

    @contextmanager
    def driver_lock(self, *, timeout_s: float) -> Iterator[None]:
        """Hold the run directory as its only driver.

        An attempt may start while an earlier one still runs: Ray counts an attempt as ended when the shell around its
        driver has died, whatever the driver does. Asking for the lock tells an older driver to end (`is_superseded`). A
        driver on another machine holds another lock: it ends all the same, and its remaining uploads do no harm.

        Raises:
            WorkerLostError: Another driver held it for `timeout_s`.
        """
        if self._newest_attempt() < self.attempt:
            self._ask_for_lock()
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "driver.lock").open("w", encoding="utf-8") as stream:
            deadline = time.monotonic() + timeout_s
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise WorkerLostError(
                            f"another driver of {self.job_id} still runs after {timeout_s:.0f} s; it is left alone"
                        ) from None
                    time.sleep(0.1)
            if self._newest_attempt() != self.attempt:  # the attempts of a job resumed by hand start at 1 again
                self._ask_for_lock()
            yield

    @property
    def is_superseded(self) -> bool:
        """Whether a newer attempt has asked for the lock."""
        return self._newest_attempt() > self.attempt

    def _ask_for_lock(self) -> None:
        self.store.objects.write(_ATTEMPT, str(self.attempt).encode("utf-8"))

    def _newest_attempt(self) -> int:
        return int(self.store.objects.read(_ATTEMPT) or 0)

    def progress(self, stage: Stage, *, step: int, total_steps: int, eta_s: float | None = None) -> None:
        """Write a heartbeat with the stage's progress; `percent` is of this stage, 0..100."""
        now, before = int(time.time()), self.read_progress()
        began = None
        if before is not None and (before.stage, before.attempt) == (stage.value, self.attempt):
            began = before.stage_started_at
        self.write(
            StageProgress(
                stage=stage.value,
                percent=round(100.0 * step / total_steps if total_steps else 0.0, 1),
                step=step,
                total_steps=total_steps,
                eta_s=None if eta_s is None else round(eta_s),
                updated_at=now,
                stage_started_at=now if began is None else began,
                attempt=self.attempt,
                pid=os.getpid(),
            )
        )

    def read_progress(self) -> StageProgress | None:
        """Read the last heartbeat; None before the first."""
        return self.read(StageProgress)

    def event(
        self, kind: str, message: str, *, stage: Stage | None = None, level: str = "info", took_s: float | None = None
    ) -> None:
        """Append one event."""
        line: EventLine = {
            "at": int(time.time()),
            "level": level,
            "type": kind,
            "message": message,
            "stage": None if stage is None else stage.value,
        }
        if took_s is not None:
            line["took_s"] = round(took_s, 3)
        self.store.events.append(line)

    def read_events(self, start: int = 0) -> list[EventLine]:
        """Read the events from index `start` on."""
        return self.store.events.read(start)

    def reserve(self) -> None:
        """Reserve the little disk space that reporting a failure needs."""
        with suppress(OSError):
            write_bytes(self.root / _RESERVE, bytes(_RESERVE_BYTES))

    def release(self) -> None:
        """Release the reserved space."""
        (self.root / _RESERVE).unlink(missing_ok=True)

    def succeed(self, pack: str) -> None:
        """Write the end of the attempt: the job published `pack`."""
        self.write(Succeeded(pack=pack, attempt=self.attempt, finished_at=int(time.time())))

    def succeed_with(self, result: str) -> None:
        """Write the end of an attempt of a job that publishes no pack: its result is a draft or a measurement."""
        self.write(Succeeded(result=result, attempt=self.attempt, finished_at=int(time.time())))

    def fail(self, error: EdaError) -> None:
        """Write the end of the attempt: it failed with a code."""
        self.write(Failed(error=Failure.of(error), attempt=self.attempt, finished_at=int(time.time())))

    def read_result(self, *, attempt: int | None = None) -> Succeeded | Failed | None:
        """Read how an attempt ended; None while it may still run, or if the file is of an earlier one.

        Args:
            attempt: Number of the attempt; None: the attempt that wrote last.
        """
        result = self.read(AttemptResult)
        if result is None or (attempt is not None and result.root.attempt < attempt):
            return None
        return result.root

    def note_cancelled(self, attempt: int) -> None:
        """Record that an attempt was cancelled, in case the job's row is lost; do nothing if nothing ran."""
        if self.is_job:
            self.write(Cancelled(attempt=attempt))

    @property
    def is_cancelled(self) -> bool:
        """Whether the last attempt in its files was cancelled."""
        with suppress(ValueError):
            return (self.read(Cancelled) or Cancelled()).attempt >= self.last_attempt()
        return False

    def clear_result(self) -> None:
        """Delete the result of an earlier attempt; only the driver, which holds the lock, may call this."""
        self.remove(AttemptResult.FILE)

    def remove(self, name: str) -> None:
        """Delete a small file of the job, if it exists."""
        self.store.objects.delete([name])

    def read(self, kind: type[StateT]) -> StateT | None:
        """Read a small file of the job; None if it does not exist.

        Raises:
            ValidationError: The file is not of its kind; for example it was written by hand.
        """
        data = self.store.objects.read(kind.FILE)
        return None if data is None else kind.model_validate_json(data)

    def write(self, value: StateFile) -> None:
        """Replace a small file of the job, atomically."""
        self.store.objects.write(value.FILE, encoded(value))

    def settle(self, value: StateT) -> StateT:
        """Write a small file that declares other files complete; return the one that counts."""
        data = encoded(value)
        settled = self.store.settle(value.FILE, data)
        return value if settled == data else type(value).model_validate_json(settled)


def _log_name(stage: Stage) -> str:
    return f"logs/{stage.value}.log"


def _record_name(stage: Stage) -> str:
    return f"{stage.value}/record.json"
