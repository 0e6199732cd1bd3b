"""Config bounds: a bad value is refused and the error names its field; defaults are the paper's where it has them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from eda_service.config.job import AdaptConfig, Method, Mix, Selector, TrainConfig
from eda_service.config.overrides import at_path, merge

BASE: dict[str, Any] = {"target": {"model": "org/model"}}

# One value below and one above what each field allows.
BAD: list[tuple[str, Any]] = [
    ("target.model", "x" * 513),
    ("target.dtype", "float16"),
    ("dataset.num_prompts", 7),
    ("dataset.num_prompts", 1_000_001),
    ("selfgen.temperature", -0.01),
    ("selfgen.temperature", 2.01),
    ("selfgen.temperature", math.nan),
    ("selfgen.top_p", 0.0),
    ("selfgen.top_p", 1.01),
    ("selfgen.max_new_tokens", 7),
    ("selfgen.batch_size", 0),
    ("selfgen.max_error_fraction", 1.5),
    ("selection.method", "best"),
    ("selection.keep_fraction", 0.0),
    ("selection.keep_fraction", 1.01),
    ("selection.keep_fraction", math.nan),
    ("selection.quantile", -0.1),
    ("selection.quantile", 1.1),
    ("selection.pca_dim", 0),
    ("selection.covariance_ridge", -1e-9),
    ("selection.num_reference_prompts", 7),
    ("train.method", "qlora"),
    ("train.mix", "max"),
    ("train.private_width_fraction", 0.0),
    ("train.private_width_fraction", 4.1),
    ("train.lora_rank", 0),
    ("train.epochs", 0),
    ("train.batch_size", 0),
    ("train.learning_rate", 0.0),
    ("train.learning_rate", 1.1),
    ("train.learning_rate", math.inf),
    ("train.heldout_fraction", 0.6),
    ("train.draft_vocab_size", 63),
    ("train.backend", "jax"),
    ("train.zero_stage", 4),
    ("train.loss.unroll_steps", 0),
    ("train.loss.unroll_steps", 9),
    ("train.loss.regression_weight", -1.0),
    ("train.loss.feature_noise", 1.5),
    ("evaluation.num_prompts", 0),
    ("evaluation.num_draft_tokens", 0),
    ("evaluation.temperatures", []),
    ("evaluation.temperatures", [0.0, 2.5]),
    ("evaluation.temperatures", [-1.0]),
    ("evaluation.timed_temperatures", [2.5]),
    ("train.precision", "float16"),
    ("seed", -1),
    ("seed", 2**31),
    ("min_acceptance_ratio", -0.1),
    ("min_gain", 0.99),
    ("deploy.min_gain", -0.01),
    ("deploy.min_gain", 10.1),
    ("deploy.min_speed_gain", -0.01),
    ("deploy.min_speed_gain", 10.1),
    ("base_draft", "x" * 129),
    ("device", "gpu"),
]


@pytest.mark.parametrize(("path", "value"), BAD, ids=[f"{path}={value!r:.12}" for path, value in BAD])
def test_a_value_out_of_bounds_names_its_field(path: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        AdaptConfig.model_validate(merge(BASE, at_path(path, value)))
    places = {".".join(str(part) for part in error["loc"] if isinstance(part, str)) for error in caught.value.errors()}
    assert places == {path}


@pytest.mark.parametrize("path", ["tarin", "train.learning_rte", "selection.loss.x", "train.loss.weight", "target.url"])
def test_an_unknown_field_is_an_error_not_a_no_op(path: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        AdaptConfig.model_validate(merge(BASE, at_path(path, 1)))


def test_a_target_is_needed() -> None:
    with pytest.raises(ValidationError) as caught:
        AdaptConfig.model_validate({})
    assert caught.value.errors()[0]["loc"] == ("target",)


def test_configs_cannot_be_changed() -> None:
    config = AdaptConfig.model_validate(BASE)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.epochs = 3  # type: ignore[misc]


def test_held_out_prompts_must_leave_some_to_train_on() -> None:
    with pytest.raises(ValidationError, match=r"evaluation.num_prompts is 16 but dataset.num_prompts is only 16"):
        AdaptConfig.model_validate(merge(BASE, {"dataset": {"num_prompts": 16}}))
    own = {"dataset": {"num_prompts": 16}, "eval_dataset": {"num_prompts": 16}}
    assert AdaptConfig.model_validate(merge(BASE, own)).eval_dataset is not None


@pytest.mark.parametrize(
    ("device", "use_gpu", "next_step"),
    [
        ("auto", False, None),
        ("auto", True, None),
        ("cpu", False, None),
        ("cuda", True, None),
        ("cuda", False, "set train.use_gpu to true, or device to auto or cpu"),
        ("cpu", True, "set train.use_gpu to false, or device to auto or cuda"),
    ],
)
def test_the_device_and_the_gpus_reserved_agree(device: str, use_gpu: bool, next_step: str | None) -> None:
    values = merge(BASE, {"device": device, "train": {"use_gpu": use_gpu}})
    if next_step is None:
        assert AdaptConfig.model_validate(values).device == device
        return
    with pytest.raises(ValidationError, match=f"device is {device} but train.use_gpu is {use_gpu}".lower()) as caught:
        AdaptConfig.model_validate(values)
    assert next_step in str(caught.value)


def test_json_round_trip() -> None:
    config = AdaptConfig.model_validate(merge(BASE, {"train": {"method": "lora"}, "evaluation": {"temperatures": [1]}}))
    assert AdaptConfig.model_validate_json(config.model_dump_json()) == config


def test_defaults_are_the_paper_s() -> None:
    config = AdaptConfig.model_validate(BASE)
    assert (config.train.method, config.train.mix) == (Method.EDA, Mix.SOFTMAX)
    assert (config.train.batch_size, config.train.learning_rate, config.train.epochs) == (16, 4e-5, 20)
    assert (config.train.loss.regression_weight, config.train.loss.cross_entropy_weight) == (1.0, 0.1)
    assert config.train.loss.unroll_steps is None  # an EAGLE-1 draft's one: tests/unit/drafts/test_unroll_steps.py
    assert (config.selection.method, config.selection.keep_fraction, config.selection.quantile) == (
        Selector.PCA,
        0.5,
        0.9,
    )
    assert config.evaluation.temperatures == (0.0, 1.0)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"target": {"model": "org/My-Model.7b"}}, "My-Model.7b"),
        ({"target": {"model": "/models/tuned one/"}}, "tuned-one"),
        ({"target": {"model": "org/base", "adapter": "team/math-lora"}}, "math-lora"),
        ({"target": {"model": "org/base"}, "served_name": "mine"}, "mine"),
    ],
)
def test_the_public_name_follows_adapter_then_model_unless_given(changes: dict[str, Any], wanted: str) -> None:
    assert AdaptConfig.model_validate(changes).public_name == wanted


def test_every_field_is_described() -> None:
    """A knob without a description or a nested model is undocumented."""
    from pydantic import BaseModel

    def undocumented(model: type[BaseModel], prefix: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += undocumented(kind, f"{prefix}{name}.")
            elif not field.description and name != "eval_dataset":
                found.append(prefix + name)
        return found

    assert undocumented(AdaptConfig) == []


def test_early_stopping_needs_held_out_sequences() -> None:
    assert TrainConfig(early_stopping_patience=2).early_stopping_patience == 2
    with pytest.raises(ValidationError, match=r"early_stopping_patience needs held-out.*heldout_fraction is 0"):
        TrainConfig(early_stopping_patience=2, heldout_fraction=0.0)
