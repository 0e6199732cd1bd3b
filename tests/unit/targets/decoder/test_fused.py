"""The fused decoder as torch.compile sees it: one graph without breaks, which is what capturing it needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from eda_service.config.job import TargetSpec
from eda_service.targets.decoder import packed
from eda_service.targets.loader import load_target


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_the_decoder_is_one_graph(
    family: str, target_dir: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With plain products, as on a GPU; the pre-packed ones of a CPU cannot be compiled."""
    monkeypatch.setattr(packed, "can_pack", lambda weight: False)
    target = load_target(TargetSpec(model=str(target_dir(family)), dtype="float32"))
    num_graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        nonlocal num_graphs
        num_graphs += 1
        return graph.forward

    torch._dynamo.reset()
    decoder = torch.compile(target.decoder.__call__, backend=count, dynamic=False, fullgraph=True)
    compiled = dataclasses.replace(target, decoder=decoder)
    ids_BL = torch.randint(3, 112, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = target.forward(ids_BL, target.new_cache(2, 32), [0, 0]).head_in
        got = compiled.forward(ids_BL, compiled.new_cache(2, 32), [0, 0]).head_in
    assert num_graphs == 1
    torch.testing.assert_close(got, wanted)
