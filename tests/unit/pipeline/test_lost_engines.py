"""A process ends with its engine; work that ends every engine fails its job instead of being done again for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eda_service.engines.vllm import EngineLostError
from eda_service.pipeline.target_engine import MAX_LOSSES, ends_with_engine


def test_the_last_of_several_losses_is_an_error_and_those_before_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits: list[int] = []

    def leave(code: int) -> None:
        exits.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    losses = tmp_path / "shard-00000.losses"
    for _ in range(MAX_LOSSES - 1):
        with pytest.raises(SystemExit), ends_with_engine(losses):
            raise EngineLostError("vLLM ended")
    with pytest.raises(EngineLostError, match="vLLM ended"), ends_with_engine(losses):
        raise EngineLostError("vLLM ended")
    assert exits == [1] * (MAX_LOSSES - 1)


def test_work_whose_retries_ray_counts_always_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    for _ in range(MAX_LOSSES + 1):
        with pytest.raises(SystemExit), ends_with_engine():
            raise EngineLostError("vLLM ended")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another"), ends_with_engine(tmp_path / "losses"):
        raise ValueError("another")
    assert not (tmp_path / "losses").exists()
