"""Names have one rule, wherever one is given; the oracle is the rule as it is written in the docs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
from pydantic import ValidationError

from api.deployments.schemas import DeploymentRequest
from api.jobs.schemas import AdaptationRequest
from eda_service.client.calls import deployment_calls
from eda_service.config.job import AdaptConfig
from eda_service.errors import InputError
from jobs.common import build_config, parser


@pytest.mark.parametrize(("name", "is_one"), [("x" * 96, True), ("x" * 97, False), ("a b", False), ("a\n", False)])
def test_the_bound_of_names_is_the_same_wherever_one_is_given(name: str, is_one: bool) -> None:
    accepts: list[Callable[[], object]] = [
        lambda: AdaptConfig.model_validate({"target": {"model": "org/model"}, "served_name": name}),
        lambda: AdaptationRequest(model="org/model", served_name=name),
        lambda: DeploymentRequest(model="org/model", name=name),
        lambda: deployment_calls.get(name),
        lambda: build_config(parser("test").parse_args(["--target=org/model", f"--set=served_name={name}"])),
    ]
    for accept in accepts:
        with nullcontext() if is_one else pytest.raises((ValidationError, InputError), match=r"match|is no name"):
            accept()
