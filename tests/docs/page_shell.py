"""Where a page's blocks run: a directory, a home with the committed math pack, a service once it says `eda up`.

Shell variables and exports live from block to block, as in a reader's terminal. Two things differ from the text:
`eda up` comes back when the service is ready, as it would in a terminal of its own, and port 8700 is a free one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from doc_blocks import REPOSITORY
from pack_files import put_pack
from running import Service
from sybil import Example

from benchmarks.bench_service import acceptance_length, fingerprint
from benchmarks.workloads import DOMAINS, PACKS_BASE_DRAFT

_PORT = "127.0.0.1:8700"
_UP = "eda up"
_NUM_VERSIONS = 2
_LIMIT_S = 3000.0
_SHELL = 'set -eu -o pipefail -o allexport; [ -e "$STATE" ] && . "$STATE"; . "$SCRIPT"; export -p > "$STATE"'
_PYTHON = '[ -e "$STATE" ] && . "$STATE"; exec python "$SCRIPT"'


class PageShell:
    """Runs blocks.

    Args:
        root: An empty directory.
        env: Settings that the page takes for granted.
    """

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        self._work, self._home, self._state = root / "work", root / "home", root / "state.sh"
        self._work.mkdir()
        self._home.mkdir()
        self._root, self._given = root, dict(env)
        self._service: Service | None = None
        math = DOMAINS[0]
        for _ in range(_NUM_VERSIONS):
            put_pack(
                self._home,
                math.target,
                acceptance_length(math),
                files=math.pack_dir,
                target=fingerprint(math),
                model=math.target,
                base_draft=PACKS_BASE_DRAFT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._service is not None:
            self._service.stop()

    def bash_or_python(self, example: Example) -> None:
        """Run one block; Sybil's evaluator."""
        script = str(example.parsed)
        if _UP in script.splitlines():
            assert script.strip() == _UP, "a reader starts the service in a terminal of its own: a block of its own"
            self._service = Service(self._home, self._given, allow=self._work).__enter__()
            return
        if self._service is not None:
            script = script.replace(_PORT, self._service.up_file["api_url"].removeprefix("http://"))
        path = self._root / "block"
        path.write_text(script, encoding="utf-8")
        is_python = example.region.lexemes["arguments"] == "python"
        done = subprocess.run(
            ["bash", "-c", _PYTHON if is_python else _SHELL],
            env=self._env(path),
            cwd=self._work,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        sys.stdout.write(f"--- line {example.line}\n{script}\n--- {done.returncode}\n{done.stdout}\n")
        assert done.returncode == 0, f"line {example.line}:\n{script}\n{done.stdout[-4000:]}"

    def _env(self, script: Path) -> dict[str, str]:
        bin_dir = str(Path(sys.executable).parent)
        return {
            **os.environ,
            **self._given,
            "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "EDA_HOME": str(self._home),
            "OMP_NUM_THREADS": "1",
            "SCRIPT": str(script),
            "STATE": str(self._state),
        }
