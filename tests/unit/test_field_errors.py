"""What pydantic finds is said in our words; the sentences are written by hand."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from api.jobs.schemas import AdaptationRequest, EstimateBody
from api.settings import Settings
from eda_service.config.job import AdaptConfig
from eda_service.environment import Environment
from eda_service.errors import InputError
from eda_service.field_errors import first_error

PYDANTIC = ("Input should", "Value error", "errors.pydantic.dev", "type=", "Field required", "Extra inputs")
TARGET = {"target": {"model": "org/model"}}


def said(model: Any, values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(values)
    message = first_error(refused.value, model).message
    assert [words for words in PYDANTIC if words in message] == []
    return message


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"train": {"epochs": 0}}, "train.epochs is 0; it must be at least 1"),
        ({"train": {"epochs": 5000}}, "train.epochs is 5000; it must be at most 1000"),
        ({"train": {"epochs": "many"}}, "train.epochs is text; it must be a whole number"),
        ({"train": {"epochs": 1.5}}, "train.epochs is 1.5; it must be a whole number"),
        ({"train": {"epochs": None}}, "train.epochs is null; it must be a whole number"),
        ({"train": 3}, "train is 3; it must be an object"),
        ({"train": {"learning_rate": 0}}, "train.learning_rate is 0; it must be above 0.0"),
        ({"train": {"use_gpu": "perhaps"}}, "train.use_gpu is text; it must be true or false"),
        ({"train": {"epoch": 3}}, "no field train.epoch; did you mean train.epochs?"),
        ({"selfgen": {"qqq": 1}}, "no field selfgen.qqq; there are answers"),
        ({"evaluation": {"temperatures": []}}, "evaluation.temperatures has 0 entries; at least 1 are needed"),
    ],
)
def test_a_field_its_value_and_its_limit(values: dict[str, Any], sentence: str) -> None:
    assert said(AdaptConfig, TARGET | values).startswith(sentence)


def test_one_of_several_words() -> None:
    found = said(AdaptConfig, TARGET | {"train": {"method": "loar"}})
    assert found.startswith("train.method is 'loar'; it must be ")
    assert found.endswith("; did you mean 'lora'?")


def test_what_is_missing() -> None:
    assert said(EstimateBody, {}).endswith(" is missing; give it")


def test_no_text_is_repeated() -> None:
    secret = "eda_key_abcdef"  # the point of the test
    for values in ({"seed": secret}, {"model": "m", "metadata": {secret: 1}}, {"model": "m", "priority": secret}):
        with pytest.raises(ValidationError) as refused:
            AdaptationRequest.model_validate(values)
        assert secret not in first_error(refused.value, AdaptationRequest).message.replace(f"metadata.{secret}", "")


@pytest.mark.parametrize(
    ("read", "name", "value", "sentence"),
    [
        (Environment.read, "EDA_ATTEMPT", "first", "EDA_ATTEMPT is 'first': it must be a whole number"),
        (Environment.read, "EDA_REQUEST_TIMEOUT_S", "-1", "EDA_REQUEST_TIMEOUT_S is '-1': it must be above 0.0"),
        (Settings.from_env, "EDA_PORT", "70000", "EDA_PORT is '70000': it must be at most 65535"),
        (Settings.from_env, "EDA_PORT", "http", "EDA_PORT is 'http': it must be a whole number"),
    ],
)
def test_variables(monkeypatch: pytest.MonkeyPatch, read: Any, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as refused:
        read()
    assert refused.value.message == f"{sentence}; correct it or unset it"
