"""Each writer counts the target's layers in its own way, and what was taken for granted is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dialect_files import TARGET, modelopt, official, put, tensors_of

from eda_service.drafts.dialects.read import ReadDraft, read_source
from eda_service.drafts.draft_config import Eagle3Config


def why(read: ReadDraft, field: str) -> str:
    return " ".join(each.why for each in read.assumed if each.field == field)


TOP, NESTED = "eagle_aux_hidden_state_layer_ids", "eagle_config.eagle_aux_hidden_state_layer_ids"


@pytest.mark.parametrize(
    ("config", "layers", "told"),
    [
        ({}, (2, 4, 5), "the config names none"),
        ({TOP: [2, 4, 5]}, (2, 4, 5), ""),
        ({TOP: [1, 3, 4]}, (1, 3, 4), "one more each may be meant"),
        ({NESTED: [1, 3, 4]}, (2, 4, 5), "gives the usual choice"),
        ({NESTED: [2, 4, 5]}, (3, 5, 6), "which may be meant"),
        ({NESTED: [0, 3, 6]}, (1, 4, 7), "one more here"),
        ({NESTED: [2, 5, 8]}, (2, 5, 8), "names 8, which no output of 8 layers"),
        ({NESTED: None}, (2, 4, 5), "the config names none"),
        ({TOP: [], NESTED: [1, 3, 4]}, (2, 4, 5), "gives the usual choice"),
        ({TOP: [2, 4, 5], NESTED: [1, 3, 4]}, (2, 4, 5), ""),
        ({TOP: [2, 4, 5], NESTED: [2, 4, 5]}, (2, 4, 5), "would say [3, 5, 6]"),
        ({"eagle_config.layer_ids": [1, 4, 8]}, (1, 4, 8), ""),
        ({"target_layer_ids": [0, 2, 7]}, (1, 3, 8), "one more here"),
        ({TOP: [0, 4, 8]}, (0, 4, 8), ""),
    ],
)
def test_layers_are_counted_as_each_writer_counts_them(
    tmp_path: Path, config: dict[str, Any], layers: tuple[int, ...], told: str
) -> None:
    read = read_source(put(tmp_path, official, tensors_of(embedding=True), config=config), TARGET)
    assert read.config.captures == layers
    assert told in why(read, "layers")
    assert bool(why(read, "layers")) == bool(told)


def test_a_draft_without_fc_reads_the_last_state(tmp_path: Path) -> None:
    """ModelOpt's default: neither fc nor hidden_norm."""
    tensors = tensors_of(states=0, hidden_norm=False)
    config = {"eagle_config.use_aux_hidden_state": False, NESTED: []}
    read = read_source(put(tmp_path, modelopt, tensors, config=config), TARGET)
    assert isinstance(read.config, Eagle3Config)
    assert (read.config.layers, read.config.has_hidden_norm) == ((), False)
    assert why(read, "has_hidden_norm")
