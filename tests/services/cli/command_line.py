"""Running `eda` in a test."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import termios
from pathlib import Path
from typing import Any

from scripted_service import Answer
from typer.testing import CliRunner, Result

from eda_service.cli.completion.completion import tree_stamp
from eda_service.cli.main import app

ROOT = "/v1/adaptations"
_COMMANDS = hashlib.sha256(tree_stamp().encode()).hexdigest()[:12]
CACHE = Path(tempfile.gettempdir()) / f"eda-completion-{os.getuid()}-{_COMMANDS}"
"""Where the tree of these commands is kept between tests; completion would take one of others, too."""
JOB = f"{ROOT}/adapt_1"
# A shell that starts a test run in the background makes its children ignore SIGINT: take the usual handler back.
_MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from eda_service.cli.entry import main; main()"
)


def job_body(status: str = "queued", **fields: Any) -> dict[str, Any]:
    """A job as the service shows it."""
    body = {"id": "adapt_1", "status": status, "model": "org/model", "base_draft": "small@1", "served_name": "model"}
    return {**body, "created_at": 1, "attempt": 1, "max_attempts": 3, **fields}


def job(status: str = "queued", **fields: Any) -> Answer:
    """The answer with that job."""
    return Answer(job_body(status, **fields))


class Cli:
    """One user's `eda`.

    Args:
        home: Value of EDA_HOME.
    """

    def __init__(self, home: Path) -> None:
        self.env = {"EDA_HOME": str(home), "EDA_URL": "", "EDA_API_KEY": "", "COLUMNS": "100", "TERM": "dumb"}
        self.env |= {"XDG_CACHE_HOME": str(CACHE), "XDG_CONFIG_HOME": str(home / "config"), "EDA_CONFIG": ""}

    @property
    def whole_env(self) -> dict[str, str]:
        """The environment of a process of this user's."""
        return {**os.environ, **self.env}

    def __call__(self, *arguments: str, url: str | None = None, env: dict[str, str] | None = None) -> Result:
        """Run a command in this process."""
        given = {**self.env, **({"EDA_URL": url} if url else {}), **(env or {})}
        return CliRunner().invoke(app, list(arguments), env=given, prog_name="eda")

    def start(
        self, *arguments: str, env: dict[str, str] | None = None, terminal: int | None = None
    ) -> subprocess.Popen[str]:
        """Start a command as a process of its own, with pipes or in a terminal that is its own."""
        return subprocess.Popen(
            [sys.executable, "-c", _MAIN, *arguments],
            env={**os.environ, **self.env, **(env or {})},
            stdin=terminal,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.PIPE if terminal is None else terminal,
            text=True,
            start_new_session=terminal is not None,
            preexec_fn=None if terminal is None else _take_terminal,  # noqa: PLW1509  # one thread between fork and exec
        )


def _take_terminal() -> None:
    """Make standard input the terminal whose keys send signals to this process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
