"""The scaling policy, as Serve calls it: a custom policy that travels in Serve's own config."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.config import AutoscalingConfig
from test_serve_groups import deployment

from eda_service.raycluster.serve_plan import Listen, build_config, groups_of


def policy(round_ms: int) -> Any:
    """As the controller gets it: made from the config, by its path."""
    found = groups_of([deployment("a", (1, 4)).model_copy(update={"round_ms": round_ms})])
    scaling = build_config(found, Listen("127.0.0.1", 1))["applications"][0]["deployments"][0]["autoscaling_config"]
    parsed = AutoscalingConfig.model_validate(scaling).policy
    return parsed.get_policy()(**parsed.policy_kwargs)


def context(requests: float, rounds: list[float], replicas: int = 2) -> Any:
    reported = {f"replica-{index}": each for index, each in enumerate(rounds)}
    return SimpleNamespace(
        current_num_replicas=replicas,
        target_num_replicas=1,
        total_num_requests=requests,
        aggregated_metrics={"round_s": reported},
    )


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (context(64, [0.01, 0.01]), 4),  # four full batches
        (context(20, [0.12, 0.12]), 4.8),  # rounds 2.4 times too long
        (context(20, [0.02, 0.08]), 2),  # one is slow, on average they are at the bound
        (context(3, [0.5, 0.5]), 3),  # no more replicas than requests
        (context(0, [0.0, 0.0]), 0),
        (context(5, []), 5 / 16),  # nobody has reported yet
        (context(5, [], replicas=0), 1),
    ],
)
def test_the_larger_need_counts(seen: Any, wanted: float) -> None:
    assert policy(50)(seen) == (pytest.approx(wanted), {})


def test_the_strictest_deployment_of_a_group_sets_the_bound() -> None:
    members = [
        deployment(name, (1, 4)).model_copy(update={"round_ms": bound}) for name, bound in (("a", 80), ("b", 60))
    ]
    assert [group.round_ms for group in groups_of([*members, deployment("c")])] == [60]
    assert [group.round_ms for group in groups_of([deployment("c")])] == [None]
