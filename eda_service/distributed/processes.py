"""Child processes that are ours: started in a session of their own, marked, and stopped with everything they started.

Ray's workers and job drivers start sessions of their own, so a process group does not hold them all. Every process
inherits its parent's environment, so a random mark in there finds all descendants, also those whose parents are dead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

MARK = "EDA_PROCESS_MARK"


def free_port() -> int:
    """A loopback TCP port that nobody listens on now."""
    return free_ports(1)[0]


def free_ports(count: int, *, exclude: Collection[int] = ()) -> list[int]:
    """Different loopback TCP ports that nobody listens on now; asked for one by one, the same may come twice."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port not in exclude:
                ports.append(port)
        return ports


def start(command: Sequence[str], *, env: Mapping[str, str], mark: str, log_path: Path) -> subprocess.Popen[bytes]:
    """Start a marked child in a session of its own, with its output appended to `log_path`."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        return subprocess.Popen(
            command,
            env={**env, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def marked(mark: str) -> list[psutil.Process]:
    """Every live process of this user that carries the mark, except the caller."""
    found = []
    for process in psutil.process_iter():
        # A process may end, or belong to somebody else, while it is looked at: then it is not ours to stop.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and _carries(process, mark):
                found.append(process)
    return found


def _carries(process: psutil.Process, mark: str) -> bool:
    # Not psutil's environ() where /proc is: a process that set its title may have zeros in front of its environment,
    # and psutil stops reading at the first one (seen with Ray's dashboard agent).
    raw = Path(f"/proc/{process.pid}/environ")
    if raw.exists():
        return f"{MARK}={mark}".encode() in raw.read_bytes().split(b"\0")
    return bool(process.environ().get(MARK) == mark)


def stop(child: subprocess.Popen[bytes], *, mark: str, timeout_s: float) -> None:
    """SIGTERM the child and wait; then SIGKILL whatever carries the mark."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout_s)
    kill_marked(mark)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5)


def kill_marked(mark: str, *, timeout_s: float = 10.0) -> int:
    """SIGKILL every process that carries the mark, until none is left; returns how many there were."""
    deadline = time.monotonic() + timeout_s
    killed: dict[int, psutil.Process] = {}
    while (left := marked(mark)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
                killed[process.pid] = process
        time.sleep(0.1)
    # A dying process shows no environment any more but holds its ports until it is gone.
    psutil.wait_procs(list(killed.values()), timeout=max(0.0, deadline - time.monotonic()))
    if killed:
        logger.info("killed %d leftover processes", len(killed))
    return len(killed)
