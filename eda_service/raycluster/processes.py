"""Child processes of ours: started in a session of their own, marked, and stopped with everything they started.

Job drivers start sessions of their own, so one session does not contain them all. Every process inherits its parent's
environment, so a random mark in it identifies descendants, also those whose parents are dead. A process that has
overwritten its environment is found by its session and its parents.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

MARK = "EDA_PROCESS_MARK"


def free_port() -> int:
    """Return a loopback TCP port on which nobody listens now."""
    return free_ports(1)[0]


def free_ports(count: int, *, exclude: Collection[int] = ()) -> list[int]:
    """Return different loopback TCP ports on which nobody listens now; single requests could return the
    same one twice.
    """
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


def marked(mark: str, sessions: Collection[int] = ()) -> list[psutil.Process]:
    """List every live process of this user that is ours, except the caller.

    A process that set its title may have overwritten its whole environment, mark included (Ray's agents and the parts
    of its dashboard do): it is identified by the session it shares with a marked process, or as a descendant of one.
    Sessions are ours, because `start` gives each child one of its own.

    Args:
        mark: Mark that was passed to `start`.
        sessions: Ids of sessions known to be ours, even if no process in them carries the mark any more.
    """
    everybody = {process.pid: process for process in psutil.process_iter() if process.pid != os.getpid()}
    ours = {pid for pid, process in everybody.items() if _carries(process, mark)}
    known = {*sessions, *sessions_of(ours)} - {os.getsid(0)}
    parents = {pid: _parent(process) for pid, process in everybody.items()}
    ours |= {pid for pid in everybody if _session(pid) in known}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return [everybody[pid] for pid in sorted(ours) if _is_alive(everybody[pid])]


def sessions_of(pids: Iterable[int]) -> set[int]:
    """Return the ids of the sessions of these processes, if they still run."""
    return {session for session in map(_session, pids) if session is not None}


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return os.getsid(pid)
    return None


def _parent(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.Error):
        return int(process.ppid())
    return None


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _carries(process: psutil.Process, mark: str) -> bool:
    # Not psutil's environ() where /proc is: a process that set its title may have zeros in front of its environment,
    # and psutil stops reading at the first one (seen with Ray's dashboard agent).
    raw = Path(f"/proc/{process.pid}/environ")
    # A process may end, or belong to another user, while it is read: then it is not ours to stop.
    with contextlib.suppress(psutil.Error, OSError):
        if raw.exists():
            return f"{MARK}={mark}".encode() in raw.read_bytes().split(b"\0")
        return bool(process.environ().get(MARK) == mark)
    return False


def stop(child: subprocess.Popen[bytes], *, mark: str, timeout_s: float) -> None:
    """Send SIGTERM to the child and wait; then send SIGKILL to all other processes of ours, and wait until they are
    gone.
    """
    before = marked(mark)
    sessions = {child.pid, *sessions_of(process.pid for process in before)}
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout_s)
    kill_marked(mark, sessions=sessions)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5)
    # Processes that the child ended itself may still be closing, with their ports and files.
    _wait_gone(before, timeout_s=5.0)


def kill_marked(mark: str, *, sessions: Collection[int] = (), timeout_s: float = 10.0) -> int:
    """Send SIGKILL to every process of ours until none is left; return how many there were.

    Args:
        mark: Mark that was passed to `start`.
        sessions: Ids of sessions known to be ours, even if no process in them carries the mark any more.
        timeout_s: Longest time in seconds.
    """
    deadline = time.monotonic() + timeout_s
    known = set(sessions)
    killed: dict[int, psutil.Process] = {}
    while (left := marked(mark, known)) and time.monotonic() < deadline:
        known |= sessions_of(process.pid for process in left)
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
                killed[process.pid] = process
        time.sleep(0.1)
    # A dying process has no readable environment but holds its ports until it is gone.
    _wait_gone(list(killed.values()), timeout_s=max(0.0, deadline - time.monotonic()))
    if killed:
        logger.info("killed %d leftover processes", len(killed))
    return len(killed)


def _wait_gone(found: Sequence[psutil.Process], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while any(map(_is_alive, found)) and time.monotonic() < deadline:
        time.sleep(0.05)
