"""A real PostgreSQL for tests: Debian's binaries, a temporary data directory, a free port on loopback, one password.

`initdb` and `postgres` refuse to run as root, so root starts them as the user `postgres` or `nobody`. `fsync` is off:
the tests kill no machine, and what is in it is thrown away.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import psycopg

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "log_min_messages": "fatal",
}
_DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")
# Runs a command until this process closes the pipe, or dies in whatever way: no test run leaves a server behind.
# SIGQUIT is PostgreSQL's "immediate shutdown": nothing is written that is deleted anyway.
_UNTIL_INPUT_ENDS = """
exec 3<&0
"$@" 3<&- & server=$!
{
    read -r _ <&3
    kill -QUIT $server
    while kill -0 $server; do sleep 0.1; done
    rm -rf "$0"
} 2>/dev/null &
wait $server
"""


class PostgresUnavailableError(Exception):
    """There is no PostgreSQL on this machine; the message says what is missing."""


class Postgres:
    """A server of its own, from the constructor until `stop`.

    Args:
        durable: Flush as a production server does; off for tests, which throw everything away.

    Raises:
        PostgresUnavailableError: The binaries are not installed.
    """

    def __init__(self, *, durable: bool = False) -> None:
        self._bin = _find_binaries()
        self._as_user = _unprivileged()
        self._root = Path(tempfile.mkdtemp(prefix="eda-postgres-"))
        self._password = secrets.token_hex(16)
        self._numbers = count()
        self.port = _free_port()
        try:
            self._init()
            settings = _SETTINGS | (dict.fromkeys(_DURABILITY, "on") if durable else {})
            options = [f"-c{name}={value}" for name, value in settings.items()]
            server = [self._bin / "postgres", "-D", self._root / "data", "-p", str(self.port), *options]
            command = ["sh", "-c", _UNTIL_INPUT_ENDS, self._root, *server]
            with (self._root / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self._root, **self._as_user
                )
            self._wait_until_up()
        except BaseException:
            self.stop()
            raise

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy URL of a database."""
        return f"postgresql://eda:{self._password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database; returns its URL."""
        name = f"eda_{next(self._numbers)}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def emptied_database(self) -> str:
        """One database, emptied of what the test before left; cheaper than a new one, and for one test at a time."""
        with self._connect() as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self.url()

    def stop(self) -> None:
        """Stop the server through its own handle and remove its files."""
        process = getattr(self, "_process", None)
        if process is not None:
            process.stdin.close()
            process.wait(_STOP_TIMEOUT_S)
        shutil.rmtree(self._root, ignore_errors=True)

    def _init(self) -> None:
        password_file = self._root / "password"
        password_file.write_text(self._password, encoding="ascii")
        if self._as_user:
            for path in (self._root, password_file):
                os.chown(path, self._as_user["user"], self._as_user["group"])
        command = [
            self._bin / "initdb", "-D", self._root / "data", "--username=eda", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=self._root, capture_output=True, text=True, check=False, timeout=120, **self._as_user
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr[-600:]}")

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self._connect().close()
                return
            except psycopg.OperationalError as error:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    log = (self._root / "log").read_text(errors="replace")[-600:]
                    raise RuntimeError(f"PostgreSQL on port {self.port} did not start: {error}; {log}") from error
                time.sleep(0.05)

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(), autocommit=True)


def _find_binaries() -> Path:
    on_path = shutil.which("postgres")
    if on_path is not None and Path(on_path).with_name("initdb").exists():
        return Path(on_path).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if not versions:
        raise PostgresUnavailableError("PostgreSQL is not installed; tests/install_postgres.sh does it on Debian")
    return versions[-1].parent


def _unprivileged() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise PostgresUnavailableError("PostgreSQL refuses root, and there is neither a user postgres nor nobody")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
