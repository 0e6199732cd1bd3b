"""generation_config.json: what is taken, refused by name, ignored. Oracle: transformers' reader of the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import write_target
from transformers import GenerationConfig

from eda_service.config.job import TargetSpec
from eda_service.decoding.request import SamplingParams, own_params
from eda_service.errors import TargetIncompatibleError, TargetNotFoundError
from eda_service.targets.checks.check import check_target
from eda_service.targets.files.generation_defaults import (
    _NOT_COMPUTED,
    NO_DEFAULTS,
    GenerationDefaults,
    parse_generation_defaults,
    read_generation_defaults,
    require_vllm_computes,
)
from eda_service.targets.files.merged import write_merged
from eda_service.targets.files.resolve import resolve_target
from eda_service.targets.loader import load_target

SAID: dict[str, Any] = {
    "do_sample": True,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "min_p": 0.05,
    "repetition_penalty": 1.05,
    "max_new_tokens": 64,
    "suppress_tokens": [7, 9, 500],
    "begin_suppress_tokens": [11],
}
# Each key that is refused, at a value that transformers or its users write.
REFUSED: dict[str, Any] = {
    "bad_words_ids": [[5]],
    "constraints": [{"a": 1}],
    "dola_layers": "high",
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.2,
    "epsilon_cutoff": 3e-4,
    "eta_cutoff": 3e-4,
    "exponential_decay_length_penalty": [5, 1.1],
    "force_words_ids": [[5]],
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "guidance_scale": 1.5,
    "min_length": 3,
    "min_new_tokens": 3,
    "no_repeat_ngram_size": 3,
    "num_beam_groups": 2,
    "num_beams": 4,
    "penalty_alpha": 0.6,
    "sequence_bias": [[[5], 1.0]],
    "stop_strings": ["end"],
    "token_healing": True,
    "top_h": 0.4,
    "typical_p": 0.9,
    "watermarking_config": {"bias": 2.0},
}


def parse(**found: Any) -> GenerationDefaults:
    return parse_generation_defaults(found, name="file")


def test_a_targets_defaults_are_those_of_its_file(tmp_path: Path) -> None:
    directory = write_target(tmp_path, "llama")
    assert read_generation_defaults(directory).said == {}
    assert own_params(read_generation_defaults(directory)) == SamplingParams(temperature=1.0)
    (directory / "generation_config.json").write_text(json.dumps(SAID))
    theirs = GenerationConfig.from_pretrained(directory)
    defaults = load_target(TargetSpec(model=str(directory), dtype="float32")).defaults
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens"):
        assert getattr(defaults, name) == getattr(theirs, name)
    assert defaults.suppress_token_ids == {7, 9}  # the third has no logit
    assert defaults.begin_suppress_token_ids == {11}
    assert "presence_penalty" not in defaults.said
    (directory / "generation_config.json").write_text(json.dumps({"no_repeat_ngram_size": 3}))
    for look in (load_target, lambda spec: check_target(resolve_target(spec))):
        with pytest.raises(TargetIncompatibleError, match=r"generation_config\.json sets no_repeat_ngram_size to 3"):
            look(TargetSpec(model=str(directory), dtype="float32"))
    (directory / "generation_config.json").write_text("[]")
    with pytest.raises(TargetNotFoundError, match="no JSON of a model"):
        read_generation_defaults(directory)


def test_a_merged_target_says_what_its_base_says(tmp_path: Path) -> None:
    """Also what transformers would not save: a temperature without do_sample."""
    directory, merged = write_target(tmp_path / "base", "llama"), tmp_path / "merged"
    (directory / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "suppress_tokens": [7]}))
    merged.mkdir()
    write_merged(TargetSpec(model=str(directory), dtype="float32"), merged)
    assert read_generation_defaults(merged).said == {"temperature": 0.6, "suppress_tokens": [7]}


def test_every_key_that_is_not_computed_is_refused_by_its_name() -> None:
    assert set(REFUSED) == set(_NOT_COMPUTED)
    for key, value in REFUSED.items():
        with pytest.raises(TargetIncompatibleError, match=f"sets {key} to .* remove it"):
            parse(**{key: value})


def test_neutral_values_are_taken_for_nothing() -> None:
    """transformers' own defaults, written out in full, as files of older versions are; and nulls."""
    written = {**GenerationConfig().to_dict(), **GenerationConfig._get_default_generation_params()}
    del written["top_k"]  # 50 there, and only where generate samples
    assert parse(**written).said == {
        "temperature": 1.0,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
    }
    assert own_params(parse(**written)) == own_params(NO_DEFAULTS)
    assert parse(**dict.fromkeys(REFUSED | SAID)) == NO_DEFAULTS
    assert parse(max_length=20, do_sample=False, a_key_of_ones_own={"x": 1}, top_k=-1).top_k == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", 2.5),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 0.0),
        ("top_k", 2.5),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", float("nan")),
        ("max_new_tokens", 0),
        ("suppress_tokens", 5),
        ("begin_suppress_tokens", [True]),
    ],
)
def test_values_out_of_range_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(TargetIncompatibleError, match=f"sets {key} to .*, allowed is"):
        parse(**{key: value})


def test_what_vllm_cannot_do_is_refused_there() -> None:
    require_vllm_computes(parse(suppress_tokens=[5]))
    with pytest.raises(TargetIncompatibleError, match="begin_suppress_tokens"):
        require_vllm_computes(parse(begin_suppress_tokens=[5]))
