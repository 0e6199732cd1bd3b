"""A tiny target that vLLM's CPU attention takes, and vLLM processes in their own environment (`make test-vllm`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_models import fit_draft, register_draft, write_target

from benchmarks.engines import VLLM_PYTHON, Vllm
from eda_service.config.job import TargetSpec
from eda_service.targets.loader import Target, load_target

NUM_DRAFTED = 3
STOP_IDS = [0, 2]  # of the tiny tokenizer


@pytest.fixture(scope="session")
def wide_target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """The tiny Llama with heads of 32, the narrowest that vLLM's CPU attention has."""
    directory = write_target(tmp_path_factory.mktemp("wide-target"), "llama", head_dim=32)
    return load_target(TargetSpec(model=str(directory), dtype="float32"))


@pytest.fixture(scope="session")
def deep_targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    """A Llama and a Qwen3 of eight layers, with heads that vLLM's CPU attention takes."""
    made = {}
    for family in ("llama", "qwen3"):
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 8, "head_dim": 32}
        directory = write_target(tmp_path_factory.mktemp(f"deep-{family}"), family, **sizes)
        made[family] = load_target(TargetSpec(model=str(directory), dtype="float32"))
    return made


@pytest.fixture(scope="session")
def wide_home(tmp_path_factory: pytest.TempPathFactory, wide_target: Target) -> Path:
    """A home with a base draft `tiny@1` that this target accepts tokens of."""
    home = tmp_path_factory.mktemp("wide-home")
    register_draft(home, fit_draft(wide_target), wide_target)
    return home


@pytest.fixture
def start_vllm(tmp_path: Path) -> Iterator[Callable[..., Vllm]]:
    """From target and draft directories to a vLLM in float32 that stops as our engine does; it ends with the test."""
    assert VLLM_PYTHON.exists(), f"no {VLLM_PYTHON}: run `make test-vllm`, which makes that environment"
    started: list[Vllm] = []

    def start(target_dir: str, draft_dir: Path | None, **settings: Any) -> Vllm:
        settings = {"dtype": "float32", "max_model_len": 256, "enforce_eager": True, "threads": 1} | settings
        log = tmp_path / f"vllm-{len(started)}.log"
        started.append(Vllm(Path(target_dir), draft_dir, NUM_DRAFTED, STOP_IDS, log, **settings))
        return started[-1]

    yield start
    for engine in started:
        engine.close()
