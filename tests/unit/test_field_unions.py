"""Wrong kinds of values in every field that the service reads: no answer has a word of pydantic's or of Python's."""

from __future__ import annotations

import importlib
import pkgutil
import re
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from api import routes
from api.deployments.schemas import DeploymentChange, DeploymentRequest
from api.endpoint.protocol.requests import ChatRequest, CompletionRequest
from api.errors import MAX_ENTRIES, validation_message
from api.jobs.schemas_fine_tuning import HyperparametersRequest
from eda_service.config.deployment import EngineLimits, EngineSpec
from eda_service.config.job import AdaptConfig
from eda_service.config.tasks import ImportConfig, MeasureConfig
from eda_service.errors import EdaError
from eda_service.field_errors import first_error

WRONG_KINDS: tuple[Any, ...] = (
    None, True, -1, 1.5, 10**30, float("nan"), float("inf"), "", "5-2", "\x00", "x" * 4096,
    [], [[]], [{}], [None, 1.5, "x"], {}, {"": {}}, {"unknown": 1}, {"min": 5, "max": 2}, {"min": "x"},
)  # fmt: skip
NOT_OURS = re.compile(
    r"constrained-|function-|is_instance|literal\[|list\[|dict\[|nullable|\[key\]|_type\b|_parsing|Input should|"
    r"Value error|Assertion|Unable to|<class|ReplicaRange|errors\.pydantic|validation error"
)


def bodies() -> set[type[BaseModel]]:
    """What the routes read."""
    names = [each.name for each in pkgutil.iter_modules(routes.__path__)]
    found = [importlib.import_module(f"{routes.__name__}.{name}") for name in names]
    read = [route for each in found for route in getattr(each, "router", types.SimpleNamespace(routes=())).routes]
    fields = [route.body_field for route in read if isinstance(route, APIRoute) and route.body_field is not None]
    kinds = [field.field_info.annotation for field in fields]
    return {each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)}


def inside(annotation: Any) -> Iterator[Any]:
    """An annotation and all that it is made of."""
    yield annotation
    for each in get_args(annotation):
        yield from inside(each)


def is_union(annotation: Any) -> bool:
    """Whether a value may be one of several things beside null."""
    found = (each for each in inside(annotation) if get_origin(each) in {Union, types.UnionType})
    return any(len({*get_args(each)} - {type(None)}) > 1 for each in found)


def below(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """A model and all in its fields."""
    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            for part in inside(field.annotation):
                if isinstance(part, type) and issubclass(part, BaseModel):
                    below(part, seen)
    return seen


CONFIGS = {AdaptConfig, MeasureConfig, ImportConfig, EngineLimits, EngineSpec, ChatRequest, CompletionRequest}
MODELS: set[type[BaseModel]] = set()
for outermost in CONFIGS | bodies():
    below(outermost, MODELS)
FIELDS = [(model, name) for model in sorted(MODELS, key=lambda each: each.__name__) for name in model.model_fields]


def answers(model: type[BaseModel], values: dict[str, Any]) -> list[str]:
    """What the service and the command line say of values; nothing of those that are taken."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        first = first_error(error, model)
        said, param = validation_message(error.errors(include_url=False), model=model)
        return [first.message, str(first.param), said, str(param)]
    except EdaError as error:
        return [error.message]
    return []


def test_the_walk_sees_all_there_is() -> None:
    names = {model.__name__ for model in MODELS}
    assert {"DeploymentRequest", "DeploymentChange", "FineTuningRequest", "ReplicaRange", "TrainConfig"} <= names
    assert {"Message", "VllmConfig", "LossConfig", "ImportConfig"} <= names
    unions = {(model.__name__, name) for model, name in FIELDS if is_union(model.model_fields[name].annotation)}
    assert {
        ("DeploymentRequest", "replicas"),
        ("HyperparametersRequest", "n_epochs"),
        ("ChatRequest", "stop"),
    } <= unions


@pytest.mark.parametrize("model", sorted(MODELS, key=lambda each: each.__name__), ids=lambda each: each.__name__)
def test_no_answer_has_words_of_a_library(model: type[BaseModel]) -> None:
    refused = 0
    for name in model.model_fields:
        for value in WRONG_KINDS:
            said = answers(model, {name: value})
            refused += bool(said)
            assert [each for each in said if NOT_OURS.search(each)] == [], (name, value)
    assert refused > 0


@pytest.mark.parametrize("value", [None, "5-2", 1.5, [], [1]])
@pytest.mark.parametrize("model", [DeploymentRequest, DeploymentChange])
def test_what_is_neither_a_number_nor_a_range(model: type[BaseModel], value: Any) -> None:
    if value is None and model is DeploymentChange:
        assert answers(model, {"replicas": value}) == []
        return
    kinds = {"NoneType": "null", "str": "text", "float": "1.5", "list": "a list"}
    sentence = (
        f"replicas is {kinds[type(value).__name__]}; it must be a whole number from 1 to 64 or an object of min, max, "
        "round_ms"
    )
    assert answers(model, {"replicas": value}) == [sentence, "replicas", sentence, "replicas"]


@pytest.mark.parametrize(
    ("values", "sentences"),
    [
        ({"replicas": 65}, ["replicas is 65; it must be at most 64"]),
        ({"replicas": {"min": 5, "max": 2}}, ["replicas: min is 5, above max 2; exchange them"]),
        (
            {"replicas": {"min": [], "mx": 2}},
            ["replicas.min is a list; it must be a whole number", "no field replicas.mx; did you mean replicas.max?"],
        ),
        ({"labels": {"": "x"}}, ["a key of labels is empty; give it a value"]),
        (
            {"replicas": "x", "labels": 3},
            [
                "replicas is text; it must be a whole number from 1 to 64 or an object of min, max, round_ms",
                "labels is 3; it must be an object",
            ],
        ),
    ],
)
def test_of_a_union_only_what_was_meant_is_told(values: dict[str, Any], sentences: list[str]) -> None:
    first, _, all_of_them, _ = answers(DeploymentRequest, values)
    assert first == sentences[0]
    assert all_of_them == ". ".join(sentences)


def test_a_word_or_a_number() -> None:
    found = answers(HyperparametersRequest, {"n_epochs": "many", "batch_size": 0})
    assert found[2] == (
        "n_epochs is text; it must be auto or a whole number from 1 to 1000. batch_size is 0; it must be at least 1"
    )


def test_an_entry_is_left_out_only_where_it_is_of_a_member_that_was_not_meant() -> None:
    values: dict[str, Any] = {name: [] for name in list(AdaptConfig.model_fields)[: MAX_ENTRIES - 1]}
    with pytest.raises(ValidationError) as refused:
        AdaptConfig.model_validate(values)
    said, _ = validation_message(refused.value.errors(include_url=False), model=AdaptConfig)
    assert said.count("; it must be ") + said.count(" is missing; ") == len(refused.value.errors())
