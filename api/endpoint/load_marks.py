"""Marks of loads that have begun: a mark left by a process that died names the model that it was loading.

A load that takes more memory than is free ends its process, and with it all other models of the replica. The next
replica finds the mark, skips that attempt, reports it, and serves the other models.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from eda_service.errors import WorkerLostError
from eda_service.raycluster.serve_plan import ServedModel

logger = logging.getLogger(__name__)

_UID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class LoadMarks:
    """One small file for each load that runs: `EDA_HOME/loading/<uid>.<attempt>.<session>.<host>.<pid>.<start>`.

    Args:
        home: The state root; None: no marks are written.
        session: Ray's name of its session: a load that was interrupted by stopping the service is not held against its
            model.
    """

    def __init__(self, home: Path | None, session: str = "") -> None:
        self._directory = None if home is None else home / "loading"
        self._session, self._host = session.replace(".", "-"), socket.gethostname().replace(".", "-")

    @contextlib.contextmanager
    def loading(self, model: ServedModel) -> Iterator[None]:
        """Mark a load while it runs.

        Raises:
            WorkerLostError: A process of this machine that has died since began this attempt.
        """
        if self._directory is None or not _UID.fullmatch(model.uid):
            yield
            return
        marks = self._directory.glob(f"{model.uid}.{model.attempt}.{self._session}.*")
        if any(self._is_dead(mark) for mark in marks):
            raise WorkerLostError(
                f"the process that loaded {model.name} died while it did, most often for lack of memory; "
                "give the node more, serve fewer models on it, or use a smaller dtype"
            )
        mark = self._directory / self._name(model)
        self._write(mark)
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def forget_others(self, models: Iterable[ServedModel]) -> None:
        """Remove marks that dead processes left of earlier attempts at these models, and of earlier sessions."""
        if self._directory is None:
            return
        for model in models:
            for mark in self._directory.glob(f"{model.uid}.*") if _UID.fullmatch(model.uid) else ():
                is_present = mark.name.split(".")[1:3] == [str(model.attempt), self._session]
                if not is_present and self._is_dead(mark):
                    mark.unlink(missing_ok=True)

    def _name(self, model: ServedModel) -> str:
        process = psutil.Process()
        begun = f"{model.uid}.{model.attempt}.{self._session}"
        return f"{begun}.{self._host}.{process.pid}.{int(process.create_time())}"

    def _write(self, mark: Path) -> None:
        """Write a mark. If that fails the load goes on: a full disk is reported by the code that needs the disk."""
        try:
            mark.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(mark, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            logger.warning("cannot mark a load: %s", error.strerror)

    def _is_dead(self, mark: Path) -> bool:
        """Whether a dead process of this machine left the mark; other machines' processes never count as dead."""
        host, pid, started = mark.name.split(".")[3:6]
        if host != self._host:
            return False
        try:
            return int(psutil.Process(int(pid)).create_time()) != int(started)
        except psutil.NoSuchProcess:
            return True
