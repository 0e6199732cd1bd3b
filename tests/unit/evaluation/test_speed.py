"""Speedup: ratios within a repeat, medians over repeats, worked by hand with a stopped clock."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from eda_service.decoding.engine import Engine
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.evaluation import speed
from eda_service.evaluation.decode import Decoded
from eda_service.evaluation.speed import measure_speed


def test_medians_and_ratios_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three repeats of two prompts of 10 tokens; autoregressive 2, 4, 4 s a prompt, the draft 1, 1, 4 s."""
    seconds: dict[str, Iterator[float]] = {
        "autoregressive": iter([2.0, 2.0, 4.0, 4.0, 4.0, 4.0]),
        "base_draft": iter([1.0, 1.0, 1.0, 1.0, 4.0, 4.0]),
    }
    order: list[str] = []

    def decode(engine: SimpleNamespace, prompts: object, params: SamplingParams, *, seeded: bool) -> Decoded:
        assert not seeded  # a seed would keep chains from adapting
        order.append(engine.name)
        return Decoded([[5] * 10], [RequestStats(num_prompt_tokens=1)], next(seconds[engine.name]))

    monkeypatch.setattr(speed, "decode_all", decode)
    engines = cast("dict[str, Engine]", {name: SimpleNamespace(name=name, num_draft_tokens=3) for name in seconds})
    rows = measure_speed(engines, [[1], [2]], params=SamplingParams(max_new_tokens=10), num_repeats=3)
    plain, draft = rows
    assert (plain.mode, plain.tokens_per_s, plain.speedup_over_autoregressive) == ("autoregressive", 2.5, 1.0)
    assert draft.tokens_per_s == 10.0  # 20 tokens in 2, 2 and 8 s: median of 10, 10, 2.5
    assert draft.speedup_over_autoregressive == 2.0  # median of 2, 4 and 1
    assert (draft.speedup_min, draft.speedup_max) == (1.0, 4.0)
    assert order == ["autoregressive", "base_draft"] * 6  # interleaved prompt by prompt
