"""A real S3 server for tests: moto over HTTP on a free loopback port, with its data in its memory."""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from itertools import count
from pathlib import Path

import httpx

_MOTO = Path(__file__).resolve().parents[1] / ".venv-s3" / "bin" / "python"
_START_TIMEOUT_S = 120.0
# Ends when this process closes the pipe, or dies in whatever way: no test run leaves a server behind. One request at a
# time: moto looks whether an object is there and puts it in two steps, where S3 promises one.
_UNTIL_INPUT_ENDS = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()
def one_at_a_time(environ, start_response):
    with turn:
        return list(moto(environ, start_response))
run_simple("127.0.0.1", int(sys.argv[1]), one_at_a_time, threaded=True)
"""


class S3UnavailableError(Exception):
    """There is no S3 server on this machine; the message says what is missing."""


class S3Server:
    """A server of its own, from the constructor until `stop`.

    Raises:
        S3UnavailableError: moto is not installed.
    """

    def __init__(self) -> None:
        if not _MOTO.exists():
            raise S3UnavailableError("moto is not installed; tests/install_s3_server.sh does it")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._numbers = count()
        command = [str(_MOTO), "-c", _UNTIL_INPUT_ENDS, str(self.port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait_until_up()

    @property
    def endpoint(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        """What S3 clients read: any key is good here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(8),
            "AWS_REGION": "us-east-1",
        }

    def new_bucket(self) -> str:
        """Make an empty bucket; returns a URL in it."""
        name = f"eda-{next(self._numbers)}"
        httpx.put(f"{self.endpoint}/{name}", trust_env=False).raise_for_status()
        return f"s3://{name}/some/prefix"

    def stop(self) -> None:
        """Stop the server through its own handle."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                httpx.get(self.endpoint, trust_env=False, timeout=5)
                return
            except httpx.HTTPError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the S3 server on port {self.port} did not start: {error}") from error
                time.sleep(0.05)
