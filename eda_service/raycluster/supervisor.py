"""The supervisor behind `eda up`: a Ray head and the API, restarted when they die, stopped with all they started.

There is one supervisor per home, ensured by a file lock, because there is one database and one API process per home.
Its file `<home>/up.json` has all addresses and process ids; processes of a killed supervisor are found by it and
stopped.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO

import httpx

from eda_service.addresses import require_loopback
from eda_service.errors import EdaError, InputError
from eda_service.jobstore.home import database_name, open_store
from eda_service.private_files import private_home
from eda_service.raycluster import processes
from eda_service.raycluster.head import RayHead
from eda_service.raycluster.node import LOOPBACK, NUM_LOGICAL_CPUS, child_env, loopback_only
from eda_service.raycluster.node_directory import remove_node_directory
from eda_service.raycluster.token import ensure_token, with_token
from eda_service.raycluster.up_file import UpFile, read_up
from eda_service.storage.files import write_json

logger = logging.getLogger(__name__)

_READY_TIMEOUT_S = 300.0
_LONGEST_BACKOFF_S = 30.0
_QUIET_S = 60.0  # a child that lived this long restarts with the shortest delay
_API_STOP_TIMEOUT_S = 45.0


class StoppedError(EdaError):
    """A signal came before everything was up."""

    code = "cancelled"


def _safe_host(home: Path, host: str) -> str:
    store = open_store(home)
    try:
        return host if store.keys.exist() else require_loopback(host)
    finally:
        store.close()


class Backoff:
    """Delays between restarts: 1 s, 2 s, 4 s, ... up to half a minute; 1 s again after a quiet minute."""

    def __init__(self) -> None:
        self._wait_s, self._next_at, self._last_at = 0.0, 0.0, 0.0

    def is_due(self, now: float) -> bool:
        """Whether a restart may happen now; if so, it is recorded."""
        if now < self._next_at:
            return False
        quiet = now - self._last_at > _QUIET_S
        self._wait_s = 1.0 if quiet else min(self._wait_s * 2, _LONGEST_BACKOFF_S)
        self._last_at, self._next_at = now, now + self._wait_s
        return True


class Supervisor:
    """Runs one service.

    Args:
        home: State root.
        host: Address of the API; not loopback only if there are keys.
        port: Port of the API and the gateway.
        serve_port: Port of Ray Serve.
        local_roots: Directories whose files requests may name.
        node_ip: Address at which other nodes join this one's Ray.
        ray_port: Port at which other nodes join; None: a free one.
        num_cpus: Number of logical CPUs of this node.
    """

    def __init__(
        self,
        home: Path,
        *,
        host: str,
        port: int,
        serve_port: int,
        local_roots: list[Path],
        node_ip: str = LOOPBACK,
        ray_port: int | None = None,
        num_cpus: int = NUM_LOGICAL_CPUS,
    ) -> None:
        self._home, self._host, self._port, self._serve_port = home, _safe_host(home, host), port, serve_port
        self._roots = local_roots
        self._node_ip, self._ray_port, self._num_cpus = node_ip, ray_port, num_cpus
        self._logs = home / "logs"
        self._mark = secrets.token_hex(16)
        self._stopping = threading.Event()
        self._api: subprocess.Popen[bytes] | None = None
        self._api_backoff, self._ray_backoff = Backoff(), Backoff()
        self._ray: RayHead | None = None
        self._lock: IO[str] | None = None

    @property
    def api_url(self) -> str:
        """Base URL of the API."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def up_file(self) -> UpFile:
        """The content of `<home>/up.json`."""
        assert self._ray is not None
        return {
            "pid": os.getpid(),
            "api_url": self.api_url,
            "serve_url": f"http://127.0.0.1:{self._serve_port}",
            "ray_address": self._ray.address,
            "ray_joinable": not self._ray.is_alone,
            "dashboard_url": self._ray.dashboard_url,
            "home": str(self._home),
            "database": database_name(self._home),
            "ray_env": {
                "RAY_ADDRESS": self._ray.dashboard_url,
                **with_token({}, self._home),
                **loopback_only(self._ray.is_alone),
            },
            "pids": {"api": None if self._api is None else self._api.pid, "ray_head": self._ray.pid},
            "marks": [self._mark, self._ray.mark],
            "ray_temp_dir": str(self._ray.directory.path),
        }

    def start(self) -> None:
        """Start everything and wait until it answers.

        Raises:
            InputError: Another supervisor runs for this home, or a port is taken.
            EdaError: A child did not start; its log's last lines are in the message.
        """
        private_home(self._home)
        self._lock = _take_lock(self._home)
        self._stop_leftovers()
        for port in (self._port, self._serve_port):
            require_free(port)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        ensure_token(self._home)  # before the API starts, which reads it once
        self._ray = RayHead(
            self._home,
            self._logs / "ray_head.log",
            node_ip=self._node_ip,
            port=self._ray_port,
            num_cpus=self._num_cpus,
            local_roots=self._roots,
        )
        self._ray.start()
        self._start_api()
        self._wait_ready()

    def run(self, *, parent_pid: int | None = None) -> None:
        """Watch the children until a signal comes, or until the parent is gone when one is given."""
        while not self._stopping.wait(0.5):
            self._revive()
            if parent_pid is not None and os.getppid() != parent_pid:
                logger.warning("the process that started this service is gone; stopping")
                return

    def stop(self) -> None:
        """Stop the API, then Ray, then remaining processes; the lock is released last."""
        if self._api is not None:
            processes.stop(self._api, mark=self._mark, timeout_s=_API_STOP_TIMEOUT_S)
        if self._ray is not None:
            self._ray.stop()
        if self._lock is not None:
            (self._home / "up.json").unlink(missing_ok=True)
            self._lock.close()

    def _start_api(self) -> None:
        assert self._ray is not None
        env = {
            **child_env(self._home),
            "EDA_HOST": self._host,
            "EDA_PORT": str(self._port),
            "EDA_SERVE_PORT": str(self._serve_port),
            "EDA_RAY_DASHBOARD_URL": self._ray.dashboard_url,
            "EDA_LOCAL_ROOTS": os.pathsep.join(str(root) for root in self._roots),
        }
        log = self._logs / "api.log"
        self._api = processes.start([sys.executable, "-m", "api"], env=env, mark=self._mark, log_path=log)
        write_json(self._home / "up.json", self.up_file)

    def _wait_ready(self) -> None:
        assert self._ray is not None
        assert self._api is not None
        deadline = time.monotonic() + _READY_TIMEOUT_S
        api_ready = ray_ready = False
        while not (api_ready and ray_ready):
            if self._stopping.wait(0.2):
                raise StoppedError("stopped before the service was up")
            if self._api.poll() is not None:
                raise EdaError(f"the API process ended with {self._api.returncode}:\n{_tail(self._logs / 'api.log')}")
            if time.monotonic() > deadline:
                raise EdaError(f"the service was not ready after {_READY_TIMEOUT_S:.0f} s; see {self._logs}")
            ray_ready = ray_ready or self._ray.is_ready()
            api_ready = api_ready or self._api_answers()

    def _api_answers(self) -> bool:
        try:
            return httpx.get(f"{self.api_url}/health", timeout=2.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _revive(self) -> None:
        assert self._ray is not None
        now = time.monotonic()
        if self._api is not None and self._api.poll() is not None and self._api_backoff.is_due(now):
            logger.warning("the API process ended with %s; starting it again", self._api.returncode)
            processes.kill_marked(self._mark)
            self._start_api()
        if not self._ray.is_alive() and self._ray_backoff.is_due(now):
            logger.warning("the Ray head has ended; starting it again")
            self._ray.start()
            write_json(self._home / "up.json", self.up_file)

    def _stop_leftovers(self) -> None:
        up_file = read_up(self._home)
        if up_file is None:
            return
        # The lock is ours, so the supervisor that wrote this is dead; its children may not be.
        for mark in up_file.get("marks", []):
            processes.kill_marked(str(mark))
        remove_node_directory(str(up_file.get("ray_temp_dir", "")))
        (self._home / "up.json").unlink(missing_ok=True)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        logger.info("%s: stopping", signal.Signals(number).name)
        self._stopping.set()


def is_running(home: Path) -> bool:
    """Whether a supervisor runs for this home."""
    if not home.is_dir():
        return False
    try:
        _take_lock(home).close()
    except InputError:
        return True
    return False


def _take_lock(home: Path) -> IO[str]:
    taken = f"a service already runs for {home}; stop it with `eda down` or use another --home"
    return take_lock(home / "up.lock", taken)


def take_lock(path: Path, taken: str) -> IO[str]:
    """Lock a file for as long as it stays open.

    Raises:
        InputError: Another process holds it; the message is `taken`.
    """
    stream = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.close()
        raise InputError(taken) from error
    return stream


def require_free(port: int) -> None:
    """Check that a port can be listened on.

    Raises:
        InputError: Another process listens on the port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"port {port} is taken; choose others with --port and --serve-port", param="port"
            ) from error


def _tail(path: Path, num_lines: int = 15) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
