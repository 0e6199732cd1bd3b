"""A service as a user starts it, as a child process of a test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from eda_service.cli.console import read_up
from eda_service.distributed.processes import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
UP_TIMEOUT_S = 240.0
CLI_TIMEOUT_S = 300.0


def left_of(marks: Sequence[str]) -> list[int]:
    """Process ids whose environment holds one of the marks, read from /proc and by nothing of ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if any(mark.encode() in path.read_bytes() for mark in marks):
                found.append(int(path.parent.name))
    return found


class Service:
    """One `eda up` and what its file says.

    Args:
        home: Its state root.
        env: Settings on top of this process's environment.
        allow: Directory whose files requests may name, besides the repository.
        options: More of `eda up`.
    """

    def __init__(
        self, home: Path, env: Mapping[str, str], *, allow: Path | None = None, options: Sequence[str] = ()
    ) -> None:
        self.home, self._env = home, {**os.environ, "OMP_NUM_THREADS": "1", **env}
        self._options = [*([] if allow is None else ["--allow", str(allow)]), *options]
        self._ports = ["--port", str(free_port()), "--serve-port", str(free_port())]
        self._log = (home / "up.log").open("ab")
        self.child = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--home", str(self.home), *self._ports, *self._options]
        command = [sys.executable, "-m", "eda_service.cli.main", "up", *options]
        return subprocess.Popen(command, env=self._env, cwd=REPOSITORY, stdout=self._log, stderr=self._log)

    def __enter__(self) -> Self:
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """SIGTERM, and wait until everything is gone."""
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(90)

    def start_again(self) -> None:
        """`eda up` once more, on the same ports."""
        self.child = self._start()
        self.wait_ready()

    @property
    def facts(self) -> dict[str, Any]:
        found = read_up(self.home)
        assert found is not None
        return found

    def wait_ready(self) -> None:
        deadline = time.monotonic() + UP_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.child.poll() is None, (self.home / "up.log").read_text()
            facts = read_up(self.home)
            if facts is not None and facts["pid"] == self.child.pid and self._is_ready(facts):
                return
            time.sleep(0.3)
        raise AssertionError((self.home / "up.log").read_text())

    @staticmethod
    def _is_ready(facts: dict[str, Any]) -> bool:
        try:
            return bool(httpx.get(f"{facts['api_url']}/health", timeout=10).json()["ray_reachable"])
        except httpx.HTTPError:
            return False

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `eda` against this service."""
        return subprocess.run(
            [sys.executable, "-m", "eda_service.cli.main", *arguments],
            env={**os.environ, "EDA_HOME": str(self.home), "COLUMNS": "80"},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=CLI_TIMEOUT_S,
            check=False,
        )
