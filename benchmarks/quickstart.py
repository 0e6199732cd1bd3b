"""docs/tutorial/quickstart.md from a fresh clone, block by block: `make bench NAME=quickstart`.

Writes `results/quickstart.json`.

It reproduces a new user's machine: a clone of the commit that is checked out here; an environment of its own, from the
registries (pip's cache unused); an empty state root and an empty model cache. Every block runs as the page has it, with
`eda up` in a terminal of its own, timed until `/health` answers. The output is kept in `out/quickstart.log`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import psutil  # type: ignore[import-untyped]
from sybil import Document
from sybil.parsers.markdown import CodeBlockParser

from benchmarks.workloads import ROOT, header, write_result

PAGE = Path("docs") / "tutorial" / "quickstart.md"
URL = "http://127.0.0.1:8700"
LOG = ROOT / "out" / "quickstart.log"
_UP = "eda up"
_UP_TIMEOUT_S = 300.0
_LIMIT_S = 1800.0


class Reader:
    """Types the commands of the page into a shell.

    Args:
        clone: Working directory of the shell.
        home: Empty directory for state root and caches.
        log: File for the output of the commands.
    """

    def __init__(self, clone: Path, home: Path, log: IO[bytes]) -> None:
        self._clone, self._home, self._log = clone, home, log
        self._service: subprocess.Popen[bytes] | None = None

    def do(self, language: str, text: str) -> float:
        """Run a block and return its seconds; raises CalledProcessError if it fails."""
        started = time.monotonic()
        self._log.write(f"\n--- {text}\n".encode())
        self._log.flush()
        if text.strip() == _UP:
            self._start(text)
        else:
            subprocess.run(self._command(language, text), check=True, timeout=_LIMIT_S, **self._terminal)
        return time.monotonic() - started

    def leave(self) -> None:
        """Press Ctrl-C in the service's terminal."""
        if self._service is not None:
            self._service.send_signal(signal.SIGINT)
            self._service.wait(120)

    def _start(self, text: str) -> None:
        self._service = subprocess.Popen(self._command("bash", f"exec {text}"), **self._terminal)
        deadline = time.monotonic() + _UP_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._service.poll() is not None:
                raise RuntimeError(f"`eda up` ended with {self._service.returncode}; see {LOG}")
            try:
                if httpx.get(f"{URL}/health").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise TimeoutError(f"`eda up` did not answer within {_UP_TIMEOUT_S:.0f} s; see {LOG}")

    def _command(self, language: str, text: str) -> list[str]:
        script = f"python - <<'PYTHON'\n{text}\nPYTHON" if language == "python" else text
        # The page activates the environment once and sets shell variables: each block is a shell of its own here.
        state = self._home / "shell"
        keep = f"trap 'export -p > \"{state}\"' EXIT"
        return ["bash", "-c", f'set -eu -o allexport; [ ! -e "{state}" ] || . "{state}"; {keep}\n{script}']

    @property
    def _terminal(self) -> dict[str, Any]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("EDA_", "RAY_", "VIRTUAL_"))}
        env = {**plain, "HOME": str(self._home), "PIP_NO_CACHE_DIR": "1", "PATH": _path_without_environment()}
        return {"cwd": self._clone, "env": env, "stdout": self._log, "stderr": self._log}


def _path_without_environment() -> str:
    ours = str(Path(sys.executable).parent)
    return os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != ours)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield language and text of each block of a page, including those that its test skips."""
    keep = [CodeBlockParser(language, lambda _example: None) for language in ("bash", "python")]
    for example in Document.parse(str(page), *keep):
        yield str(example.region.lexemes["arguments"]), str(example.parsed)


@contextmanager
def fresh_clone() -> Iterator[tuple[Path, Path]]:
    """Make a clone of this commit and an empty home."""
    with tempfile.TemporaryDirectory(prefix="eda-quickstart-") as root:
        clone, home = Path(root) / "eda", Path(root) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        yield clone, home


def main() -> None:
    """Follow the page, write the seconds."""
    LOG.parent.mkdir(exist_ok=True)
    load = psutil.getloadavg()[0]
    steps: list[dict[str, Any]] = []
    with fresh_clone() as (clone, home), LOG.open("wb") as log:
        reader = Reader(clone, home, log)
        try:
            for language, text in blocks(clone / PAGE):
                seconds = reader.do(language, text)
                steps.append({"block": text.strip().splitlines(), "seconds": round(seconds, 1)})
                sys.stderr.write(f"{seconds:7.1f} s  {text.strip().splitlines()[0]}\n")
        finally:
            reader.leave()
    result = {
        **header("make bench NAME=quickstart"),
        "machine_load_before": round(load, 2),
        "all_seconds": round(sum(step["seconds"] for step in steps), 1),
        "steps": steps,
    }
    path = write_result("quickstart.json", result)
    sys.stderr.write(f"{result['all_seconds']} s; wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
