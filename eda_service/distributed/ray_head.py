"""A private Ray head as a child process: own ports, own directory, loopback only, stopped with everything it started.

Never `ray stop`: it would stop every Ray on the machine.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx

import eda_service
from eda_service.distributed import processes
from eda_service.distributed.ray_token import auth_headers, ensure_token, token_path, with_token
from eda_service.errors import ResourceError

NUM_LOGICAL_CPUS = 8  # more than cores: stages take fractions, and actors that hold every CPU would hang the rest
OBJECT_STORE_BYTES = 500_000_000
STOP_WAIT_S = 5  # a cancelled driver gets this long for a clean end; the promise is 10 s
_LONGEST_TEMP_DIR = 40  # Ray adds about 60 characters for its sockets and Unix allows 107
_STOP_TIMEOUT_S = 10.0
_TEMP_PREFIX = "eda-ray-"
_PORTS = (
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "node-manager-port",
    "object-manager-port",
    "ray-client-server-port",
)
_READY_TIMEOUT_S = 10.0  # on a busy machine the first answer takes seconds


def repository_root() -> Path:
    """Directory that holds the packages `eda_service`, `api` and `jobs`."""
    return Path(eda_service.__file__).resolve().parents[1]


def child_env(home: Path) -> dict[str, str]:
    """Environment of our children: they find our packages, this interpreter, this home and its cluster's token."""
    paths = [str(repository_root()), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "EDA_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    return with_token(env, home)


class RayHead:
    """One head on this machine. Its ports stay the same over restarts, so that clients need not be told.

    Args:
        home: State root handed to jobs as EDA_HOME.
        log_path: Where the head's own output goes.
    """

    def __init__(self, home: Path, log_path: Path) -> None:
        self._home, self._log_path = home, log_path
        self._gcs_port, self._dashboard_port = processes.free_ports(2)
        self._child: subprocess.Popen[bytes] | None = None
        self.mark = secrets.token_hex(16)
        self.temp_dir = _short_temp_dir()

    @property
    def address(self) -> str:
        """What `ray.init(address=...)` takes."""
        return f"127.0.0.1:{self._gcs_port}"

    @property
    def dashboard_url(self) -> str:
        """Base URL of the Jobs and Serve REST APIs."""
        return f"http://127.0.0.1:{self._dashboard_port}"

    @property
    def pid(self) -> int | None:
        """Process id of `ray start --block`, or None before the first start."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the head, after removing whatever an earlier one left running."""
        ensure_token(self._home)
        processes.kill_marked(self.mark)
        self._child = processes.start(
            self._command(), env={**child_env(self._home), **self._env()}, mark=self.mark, log_path=self._log_path
        )

    def is_alive(self) -> bool:
        """Whether the head's process runs."""
        return self._child is not None and self._child.poll() is None

    def is_ready(self) -> bool:
        """Whether the dashboard takes jobs.

        Raises:
            ResourceError: The head has ended.
        """
        if not self.is_alive():
            raise ResourceError(f"the Ray head did not start; its output is in {self._log_path}")
        try:
            # The job list needs the dashboard's agent too, which is up some seconds after its HTTP server.
            url, headers = f"{self.dashboard_url}/api/jobs/", auth_headers(token_path(self._home))
            return httpx.get(url, headers=headers, timeout=_READY_TIMEOUT_S, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """Stop the head and every process it started, and remove its directory."""
        if self._child is not None:
            processes.stop(self._child, mark=self.mark, timeout_s=_STOP_TIMEOUT_S)
        remove_temp_dir(self.temp_dir)

    def _command(self) -> list[str]:
        worker_base = random.randrange(20_000, 31_000, 500)  # below the ephemeral ports, where free_port looks
        options = {
            "port": self._gcs_port,
            "node-ip-address": "127.0.0.1",
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self._dashboard_port,
            "min-worker-port": worker_base,
            "max-worker-port": worker_base + 499,
            "num-cpus": NUM_LOGICAL_CPUS,
            "object-store-memory": OBJECT_STORE_BYTES,
            "temp-dir": self.temp_dir,
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        return [*start, *flags, *self._free_port_flags()]

    def _free_port_flags(self) -> list[str]:
        ports = processes.free_ports(len(_PORTS), exclude=(self._gcs_port, self._dashboard_port))
        return [f"--{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]

    @staticmethod
    def _env() -> dict[str, str]:
        env = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            "RAY_JOB_STOP_SIGNAL": "SIGINT",  # Ray Train aborts cleanly on SIGINT, not on SIGTERM
            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
        }
        if shutil.which("nvidia-smi") is None:
            env["DS_ACCELERATOR"] = "cpu"
        return env


def remove_temp_dir(path: str) -> None:
    """Remove a head's directory; a path that does not look like one of ours is left alone."""
    if Path(path).name.startswith(_TEMP_PREFIX):
        shutil.rmtree(path, ignore_errors=True)


def _short_temp_dir() -> str:
    base = tempfile.gettempdir()
    if len(base) > _LONGEST_TEMP_DIR - len("/eda-ray-xxxxxxxx"):
        base = "/tmp"
    with contextlib.suppress(OSError):
        return tempfile.mkdtemp(prefix=_TEMP_PREFIX, dir=base)
    return tempfile.mkdtemp(prefix=_TEMP_PREFIX, dir="/tmp")
