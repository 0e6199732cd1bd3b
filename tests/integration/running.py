"""A service as a user starts it, as a child process of a test."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

import httpx
import psutil  # type: ignore[import-untyped]

from eda_service.client import Adaptation, Client, Deployment
from eda_service.raycluster.processes import free_port
from eda_service.raycluster.up_file import UpFile, read_up
from tests.integration.service_pulse import pulse_of
from tests.waiting import STALL_S, Stall, wait_for, work_of

REPOSITORY = Path(__file__).resolve().parents[2]
CLI_TIMEOUT_S = 600.0
ResultT = TypeVar("ResultT")


def listeners_of(process: psutil.Process) -> list[tuple[str, str]]:
    """What a process and its descendants listen on: address, and name of the process that does."""
    family = [process, *process.children(recursive=True)]
    names = {}
    for each in family:
        with contextlib.suppress(psutil.Error):
            names[each.pid] = " ".join(each.cmdline())[:200]
    found = [each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN and each.pid in names]
    return [(str(each.laddr.ip).removeprefix("::ffff:"), names[each.pid]) for each in found]


def off_loopback(listeners: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that another machine can reach."""
    return [each for each in listeners if not ipaddress.ip_address(each[0]).is_loopback]


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
        cwd: Where it is started.
        umask: What it is started with.
    """

    def __init__(
        self,
        home: Path,
        env: Mapping[str, str],
        *,
        allow: Path | None = None,
        options: Sequence[str] = (),
        cwd: Path = REPOSITORY,
        umask: int = 0o022,
    ) -> None:
        paths = os.pathsep.join(path for path in (str(REPOSITORY), os.environ.get("PYTHONPATH")) if path)
        self.home, self._env = home, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **env}
        self._cwd, self._umask = cwd, umask
        self._options = [*([] if allow is None else ["--allow", str(allow)]), *options]
        self._ports = ["--port", str(free_port()), "--serve-port", str(free_port())]
        self._log = (home / "up.log").open("ab")
        self.child = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        options = ["--home", str(self.home), *self._ports, *self._options]
        command = [sys.executable, "-P", "-m", "eda_service.cli.main", "up", *options]
        return subprocess.Popen(
            command, env=self._env, cwd=self._cwd, umask=self._umask, stdout=self._log, stderr=self._log
        )

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
    def up_file(self) -> UpFile:
        found = read_up(self.home)
        assert found is not None
        return found

    def wait_ready(self) -> None:
        log = self.home / "up.log"

        def is_up() -> bool:
            assert self.child.poll() is None, log.read_text()
            up_file = read_up(self.home)
            return up_file is not None and up_file["pid"] == self.child.pid and self._is_ready(up_file)

        wait_for(is_up, what=f"the service of {self.home}; see {log}", progress=lambda: work_of(self.child.pid))

    @staticmethod
    def _is_ready(up_file: UpFile) -> bool:
        try:
            return bool(httpx.get(f"{up_file['api_url']}/health", timeout=10).json()["ray_reachable"])
        except httpx.HTTPError:
            return False

    def pulse(self) -> object:
        """What changes while the service works on something."""
        return pulse_of(self.up_file)

    def wait_for(self, condition: Callable[[], ResultT], what: str, *, stall_s: float = STALL_S) -> ResultT:
        """The condition's value once it is true, as long as the service works on something."""
        return wait_for(condition, what=what, progress=self.pulse, stall_s=stall_s)

    def wait_job(self, client: Client, job_id: str) -> Adaptation:
        """The job once it has ended, as long as there is progress."""
        stall = Stall(f"the end of job {job_id}", self.pulse)
        for job in client.watch(job_id):
            if job.is_terminal:
                return job
            stall.check()
        raise AssertionError("watch ends with a terminal job")

    def wait_served(self, client: Client, name: str, *, replicas: int = 1) -> Deployment:
        """The deployment once requests get what it wants from so many replicas."""

        def found() -> Deployment | None:
            deployment = client.deployments.get(name)
            assert deployment.state != "failed", deployment.reason
            is_there = deployment.state == "ready" and deployment.replicas.running >= replicas
            return deployment if is_there else None

        ready = self.wait_for(found, f"deployment {name} with {replicas} replicas")
        assert ready is not None
        return ready

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
