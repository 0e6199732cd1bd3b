"""Shapes of targets that are not here: from a config of the hub, or from the draft beside them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from eda_service.drafts.draft_config import Eagle1Config
from eda_service.planning.shapes import EMBEDDED_SHAPES, SHAPES, shape_beside
from eda_service.targets.embedded import EMBEDDED
from eda_service.targets.files.shape import head_dim_of, shape_of_config

LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}


def test_the_weights_that_a_config_describes_are_those_that_were_published() -> None:
    shape, published = shape_of_config(LLAMA_8B), SHAPES["8b"]
    assert shape.num_parameters == pytest.approx(published.num_parameters, rel=2e-3)
    assert (shape.head_dim, shape.num_layers, shape.is_tied) == (128, 32, False)
    small = SHAPES["135m"]
    tied = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
    }
    found = shape_of_config(tied)
    assert found.num_parameters == pytest.approx(small.num_parameters, rel=2e-3)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {**LLAMA_8B, "hidden_size": None},
        {**LLAMA_8B, "num_attention_heads": 0},
        {"n_embd": 768},
        {**LLAMA_8B, "head_dim": -1},
    ],
)
def test_a_config_that_does_not_say_gives_no_shape(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Error|below 1"):
        shape_of_config(config)


@pytest.mark.parametrize(("said", "expected"), [({}, 128), ({"head_dim": None}, 128), ({"head_dim": 256}, 256)])
def test_the_width_of_a_head_is_the_same_from_a_file_and_from_transformers(said: dict[str, Any], expected: int) -> None:
    config = {**LLAMA_8B, **said}
    assert head_dim_of(config) == head_dim_of(SimpleNamespace(**config)) == shape_of_config(config).head_dim == expected


def test_a_target_beside_a_draft_has_the_draft_s_widths() -> None:
    draft = Eagle1Config(
        hidden_size=4000,
        num_heads=40,
        num_kv_heads=8,
        head_dim=100,
        expert_width=9000,
        vocab_size=777,
        rope_theta=1e4,
        rms_norm_eps=1e-6,
    )
    shape = shape_beside(draft)
    assert (shape.hidden_size, shape.vocab_size, shape.expert_width) == (4000, 777, 9000)
    assert (shape.num_layers, shape.num_parameters) == (SHAPES["8b"].num_layers, SHAPES["8b"].num_parameters)


def test_every_embedded_model_has_a_known_shape() -> None:
    assert set(EMBEDDED_SHAPES) == set(EMBEDDED)
