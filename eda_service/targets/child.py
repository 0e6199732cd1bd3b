"""A child process that works on files of strangers, one JSON order per line, under limits that do not apply to the
parent.

The child starts with the first order and serves this process until it ends. A child that takes too long, breaks off, or
has ended by itself is replaced at the next order.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any

_READ_BYTES = 1 << 16


class JsonChild:
    """One child process; calls from several threads take turns.

    Args:
        module: Module that `python -m` runs. It writes a line when it is ready, then one for each line it reads.
        options: Options of the Python interpreter.
        environment: Variables added to this process's own.
        timeout_s: Longest wait in seconds for the first line and for each answer.
    """

    def __init__(
        self,
        module: str,
        *,
        timeout_s: float,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [sys.executable, *options, "-m", module]
        self._environment, self._timeout_s = dict(environment or {}), timeout_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._owner_pid = 0

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        """Send an order and return the answer; None if the child broke off or took too long.

        Raises:
            RuntimeError: The child does not start.
        """
        text = json.dumps(order).encode() + b"\n"
        with self._lock:
            child = self._running()
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(text)
                child.stdin.flush()
                line = self._read_line(child.stdout)
            except (OSError, TimeoutError):
                line = b""
            if not line:
                self._end()
                return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._owner_pid == os.getpid() and self._child.poll() is None:
            return self._child
        if self._owner_pid == os.getpid():
            self._end()
        environment = {**os.environ, **self._environment}
        self._child = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._owner_pid = os.getpid()
        assert self._child.stdout is not None
        try:
            started = self._read_line(self._child.stdout)
        except TimeoutError:
            started = b""
        if not started:
            self._end()
            raise RuntimeError(f"{' '.join(self._command)} does not start; its error is in this log")
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()

    def _read_line(self, stream: IO[bytes]) -> bytes:
        """Read one line; empty if the child has ended.

        Raises:
            TimeoutError: No line comes in time.
        """
        deadline, parts = time.monotonic() + self._timeout_s, b""
        ready = select.poll()  # not `select.select`, which supports only file descriptors below 1,024
        ready.register(stream, select.POLLIN | select.POLLHUP)
        while not parts.endswith(b"\n"):
            if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            more = os.read(stream.fileno(), _READ_BYTES)
            if not more:
                return b""
            parts += more
        return parts
