"""Requests made from the OpenAPI document, good and bad, against the real application and the real endpoint: every
answer is one that the document describes, and none is a 5xx.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from linked_calls import chain
from live_api import LiveApi, live_api
from live_endpoint import LiveEndpoint, live_endpoint, make_pair
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from api.openapi import PATH
from eda_service.decoding.engine import Engine
from eda_service.targets.loader import Target

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
document = schemathesis.openapi.from_path(PATH)
generation = document.include(path_regex="completions$")
BOUNDS = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest.fixture(scope="module")
def endpoint(tiny_target: Target) -> Iterator[LiveEndpoint]:
    engine = Engine(tiny_target, max_batch=4, max_tokens=128)
    with live_endpoint([make_pair("tiny", tiny_target, engine)]) as running:
        yield running


@document.parametrize()
@BOUNDS
def test_the_service_answers_as_documented(case: schemathesis.Case, live: LiveApi) -> None:
    case.call_and_validate(base_url=live.url, checks=CHECKS, timeout=60)


def test_what_one_answer_gives_the_next_request_takes(live: LiveApi) -> None:
    """Along the document's links: what was made is looked at, changed, cancelled and made again."""
    chain(document, live.url).run(settings=settings(BOUNDS, max_examples=8, stateful_step_count=6))


@generation.parametrize()
@BOUNDS
def test_the_endpoint_refuses_or_answers(case: schemathesis.Case, endpoint: LiveEndpoint) -> None:
    if isinstance(case.body, dict):
        case.body["model"] = "tiny"
    case.call_and_validate(base_url=endpoint.url, checks=[not_a_server_error], timeout=60)
    endpoint.wait_idle()
