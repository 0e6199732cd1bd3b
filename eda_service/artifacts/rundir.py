"""The run directory of one job: the only channel between the job's processes and the API.

    <home>/runs/<job_id>/
        job.json            the AdaptConfig, written once by whoever creates the job, with its origin
        progress.json       heartbeat: stage and its start, percent, step, total_steps, eta_s, updated_at, attempt, pid
        events.jsonl        one line per event, appended: {"at", "level", "type", "message", "stage"}
        result.json         end of an attempt: {"attempt", "status": "succeeded", "pack": ...} or {.., "error": {...}}
        driver.lock         held by the attempt's driver while it lives: two attempts never write at once
        driver.attempt      the newest attempt that has asked for the lock: an older driver that sees it ends
        reserve             space for telling of a full disk, while a driver runs
        <stage>/record.json the stage's record, last file of its directory
        logs/<stage>.log    what the stage logged

Workers never open the job database; the dispatcher reads these files.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from eda_service.artifacts.files import verify_files, write_bytes, write_json
from eda_service.config import AdaptConfig
from eda_service.errors import ArtifactCorruptError, EdaError, WorkerLostError
from eda_service.records import STAGES, Record, Stage

_RESERVE, _RESERVE_BYTES = "reserve", 64 << 10
RecordT = TypeVar("RecordT", bound=Record)


def home_dir() -> Path:
    """Root of all state: `EDA_HOME`, default `~/.eda`."""
    return Path(os.environ.get("EDA_HOME", "~/.eda")).expanduser().resolve()


def machine_path(home: Path) -> Path:
    """Where the last job wrote down how fast its workers multiply: {"flops_per_s"}."""
    return home / "machine.json"


def current_attempt() -> int:
    """Number of the attempt this process works for: `EDA_ATTEMPT`, which the dispatcher gives to each; default 1."""
    return int(os.environ.get("EDA_ATTEMPT", "1"))


class RunDir:
    """Paths and small files of one job.

    Args:
        root: The directory; its name is the job's id.
        attempt: What this process writes heartbeats and results for; default: that of the environment.
    """

    def __init__(self, root: Path, *, attempt: int | None = None) -> None:
        self.root = root
        self.job_id = root.name
        self.attempt = current_attempt() if attempt is None else attempt

    @classmethod
    def of_job(cls, job_id: str, home: Path | None = None) -> RunDir:
        """The run directory of a job under `home` (default: `home_dir()`)."""
        return cls((home or home_dir()) / "runs" / job_id)

    def create(self, config: AdaptConfig, *, origin: str) -> None:
        """Write `job.json`; the directory counts as a job once this file is there."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_json(
            self.root / "job.json",
            {
                "id": self.job_id,
                "origin": origin,
                "created_at": int(time.time()),
                "config": config.model_dump(mode="json"),
            },
        )

    @property
    def machine_path(self) -> Path:
        """`<home>/machine.json`: how fast the workers multiply, as the last job found it."""
        return machine_path(self.root.parents[1])

    def read_job(self) -> dict[str, Any]:
        """`job.json` as written."""
        return self._read("job.json") or {}

    def config(self) -> AdaptConfig:
        """The job's config.

        Raises:
            ArtifactCorruptError: `job.json` is missing or does not validate.
        """
        try:
            return AdaptConfig.model_validate(self.read_job()["config"])
        except (KeyError, ValidationError) as error:
            raise ArtifactCorruptError(f"{self.root / 'job.json'} is missing or invalid: {error}") from error

    def stage_dir(self, stage: Stage) -> Path:
        """Directory of one stage, created."""
        path = self.root / stage.value
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log_path(self, stage: Stage) -> Path:
        """Log file of one stage; its directory is created."""
        path = self.root / "logs" / f"{stage.value}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def logs(self) -> dict[Stage, Path]:
        """The log files that there are, in the order of the stages."""
        paths = {stage: self.root / "logs" / f"{stage.value}.log" for stage in STAGES}
        return {stage: path for stage, path in paths.items() if path.is_file()}

    def write_record(self, record: Record) -> None:
        """Publish a stage's record: the last write of the stage."""
        write_json(self.stage_dir(record.stage) / "record.json", record.model_dump(mode="json"))

    def read_record(self, kind: type[RecordT], stage: Stage, *, verify: bool = True) -> RecordT | None:
        """A stage's record if it is there, parsed and (by default) with its files' hashes checked; else None.

        Raises:
            ArtifactCorruptError: The record does not parse, or a file differs from it.
        """
        path = self.root / stage.value / "record.json"
        if not path.exists():
            return None
        try:
            record = kind.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise ArtifactCorruptError(f"{path} does not parse: {error}") from error
        if verify:
            verify_files(path.parent, record.files)
        return record

    @contextmanager
    def driver_lock(self, *, timeout_s: float) -> Iterator[None]:
        """Hold the run directory as its only driver.

        An attempt may start while the one before still runs: Ray counts an attempt as ended when the shell around its
        driver has died, whatever the driver does. Asking for the lock tells an older driver to end (`is_superseded`).

        Raises:
            WorkerLostError: Another driver held it for `timeout_s`.
        """
        if self._newest_attempt() < self.attempt:
            self._ask_for_lock()
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
            if self._newest_attempt() != self.attempt:  # a job resumed by hand starts counting anew
                self._ask_for_lock()
            yield

    @property
    def is_superseded(self) -> bool:
        """Whether a newer attempt has asked for the lock."""
        return self._newest_attempt() > self.attempt

    def _ask_for_lock(self) -> None:
        write_bytes(self.root / "driver.attempt", str(self.attempt).encode())

    def _newest_attempt(self) -> int:
        try:
            return int((self.root / "driver.attempt").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0

    def progress(self, stage: Stage, *, step: int, total_steps: int, eta_s: float | None = None) -> None:
        """Heartbeat with the stage's progress; `percent` is of this stage, 0..100."""
        now = int(time.time())
        before = self.read_progress() or {}
        same = (before.get("stage"), before.get("attempt")) == (stage.value, self.attempt)
        write_json(
            self.root / "progress.json",
            {
                "stage": stage.value,
                "percent": round(100.0 * step / total_steps if total_steps else 0.0, 1),
                "step": step,
                "total_steps": total_steps,
                "eta_s": None if eta_s is None else round(eta_s),
                "updated_at": now,
                "stage_started_at": before.get("stage_started_at", now) if same else now,
                "attempt": self.attempt,
                "pid": os.getpid(),
            },
        )

    def read_progress(self) -> dict[str, Any] | None:
        """Last heartbeat, or None before the first."""
        return self._read("progress.json")

    def event(
        self, kind: str, message: str, *, stage: Stage | None = None, level: str = "info", took_s: float | None = None
    ) -> None:
        """Append one event; a line is written in one call, so concurrent writers do not interleave."""
        line: dict[str, Any] = {
            "at": int(time.time()),
            "level": level,
            "type": kind,
            "message": message,
            "stage": None if stage is None else stage.value,
        }
        if took_s is not None:
            line["took_s"] = round(took_s, 3)
        with (self.root / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def read_events(self, start: int = 0) -> list[dict[str, Any]]:
        """Events from index `start` on; a torn last line is left for the next call."""
        path = self.root / "events.jsonl"
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8")
        lines = text.split("\n")[:-1]
        return [json.loads(line) for line in lines[start:]]

    def reserve(self) -> None:
        """Take the little space that telling of a failure needs, while there is some."""
        with suppress(OSError):
            write_bytes(self.root / _RESERVE, bytes(_RESERVE_BYTES))

    def release(self) -> None:
        """Give it back."""
        (self.root / _RESERVE).unlink(missing_ok=True)

    def succeed(self, pack: str) -> None:
        """End of the attempt: the job published `pack`."""
        self._write_result({"status": "succeeded", "pack": pack})

    def fail(self, error: EdaError) -> None:
        """End of the attempt: it failed with a code."""
        body = {"code": error.code, "message": error.message, "param": error.param, "retryable": error.retryable}
        self._write_result({"status": "failed", "error": body})

    def _write_result(self, result: dict[str, Any]) -> None:
        write_json(self.root / "result.json", {**result, "attempt": self.attempt, "finished_at": int(time.time())})

    def read_result(self, *, attempt: int | None = None) -> dict[str, Any] | None:
        """How an attempt ended; None while it may still run, or when the file tells of an earlier one.

        Args:
            attempt: The attempt asked about; None: whichever wrote last.
        """
        result = self._read("result.json")
        if result is None or (attempt is not None and result.get("attempt", 1) < attempt):
            return None
        return result

    def clear_result(self) -> None:
        """Forget how an earlier attempt ended; for the driver, which holds the lock."""
        (self.root / "result.json").unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.root / name
        if not path.exists():
            return None
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value
