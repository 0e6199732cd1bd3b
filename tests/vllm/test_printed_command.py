"""What `eda export` prints is typed into a shell as it stands, and the openai client gets its answers from that server.

vLLM's CPU build is called otherwise than its command looks for, so `vllm serve` becomes the call of its module; a port
is added at the end, and nothing else is changed. That answers are the target's own is `test_vllm_exports.py`'s: as it
stands, the line lets vLLM compute in bfloat16, where a tiny target's tokens tie.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from adapted_packs import publish_adapted
from openai import OpenAI
from typer.testing import CliRunner
from waiting import wait_for

from eda_service.cli.main import app
from eda_service.config.job import TrainConfig
from eda_service.raycluster.processes import free_port
from eda_service.targets.loader import Target

MODULE = f"{sys.executable} -m vllm.entrypoints.openai.api_server --model"
MAX_TOKENS = 24
PROMPTS = ([5, 9, 30, 44], [17, 17, 60], [80, 3, 7, 21, 90, 11])
_START_S, _END_S = 540.0, 60.0


def printed(home: Path, target: Target, reference: str, form: str, out: Path) -> str:
    """Standard output of the command: the line to type."""
    words = ["export", reference, "--to", "vllm", "--form", form, "--out", str(out), "--target", target.spec.model]
    done = CliRunner().invoke(app, [*words, "--num-prompts", "8"], env={"EDA_HOME": str(home), "COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    assert line.startswith("vllm serve ")
    return str(line)


@contextlib.contextmanager
def typed(line: str, log: Path) -> Iterator[str]:
    """Run a line in a shell until the block ends; the address of its server."""
    port = free_port()
    command = f"{line.replace('vllm serve', MODULE, 1)} --port {port}"
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as stream:
        server = subprocess.Popen(
            command, shell=True, env=env, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert server.poll() is None, log.read_text(errors="replace")[-6000:]
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{url}/health", timeout=5.0).is_success
        return False

    try:
        wait_for(answers, what=f"vLLM ({log})", progress=lambda: log.stat().st_size, longest_s=_START_S, interval_s=1.0)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def counted(url: str, name: str) -> float:
    """A counter of the server over all its labels."""
    text = httpx.get(f"{url}/metrics", timeout=30.0).text
    return sum(float(value) for value in re.findall(rf"^vllm:{name}_total{{[^}}]*}} (\S+)$", text, re.M))


def ask(url: str) -> list[str]:
    """Answers through the client that people have."""
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        (model,) = [each.id for each in client.models.list()]
        made = [
            client.completions.create(model=model, prompt=prompt, max_tokens=MAX_TOKENS, temperature=0.0)
            for prompt in PROMPTS
        ]
    assert all(each.usage is not None and each.usage.completion_tokens > 0 for each in made)
    return [each.choices[0].text for each in made]


@pytest.mark.timeout(1500)  # two starts, each with the compilation that the line as it stands has
def test_the_printed_line_serves_the_pair_in_both_forms(wide_home: Path, wide_target: Target, tmp_path: Path) -> None:
    draft_dir = wide_home / "drafts" / "tiny" / "1"
    reference = publish_adapted(wide_home, draft_dir, wide_target, TrainConfig(), name="printed")
    for form in ("dense", "plugin"):
        line = printed(wide_home, wide_target, reference, form, tmp_path / form)
        with typed(line, tmp_path / f"{form}.log") as url:
            assert any(ask(url))
            assert counted(url, "spec_decode_num_drafts") > 0
            assert counted(url, "spec_decode_num_accepted_tokens") > 0
