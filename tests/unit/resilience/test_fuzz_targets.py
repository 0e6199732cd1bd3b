"""The short run of `make proof NAME=fuzz`: every reader of strangers' input, a few inputs each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import HealthCheck, given, settings

from tests.resilience.fuzz_targets import Target, open_targets

pytestmark = pytest.mark.slow

NAMES = (
    "safetensors_header", "stage_record", "shard", "prompt_file", "adapter_config", "chat_template",
    "event_stream", "adaptation_request", "chat_request", "webhook_url",
)  # fmt: skip
NUM_INPUTS = {"chat_template": 40, "stage_record": 25}


@pytest.fixture(scope="module")
def opened() -> Iterator[Mapping[str, Target]]:
    with open_targets() as found:
        yield found


def test_every_target_is_tried_here(opened: Mapping[str, Target]) -> None:
    assert set(opened) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_refuses_or_takes(name: str, opened: Mapping[str, Target]) -> None:
    target = opened[name]
    bounds = settings(
        max_examples=NUM_INPUTS.get(name, 80),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    bounds(given(target.inputs)(target.check))()
