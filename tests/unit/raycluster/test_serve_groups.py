"""Deployments become groups, and groups one Serve config that Ray's own schema accepts."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema

from api.settings import Settings
from eda_service.config.deployment import EngineLimits
from eda_service.errors import InputError
from eda_service.ids import new_deployment_uid
from eda_service.jobstore import Deployment
from eda_service.raycluster.serve_plan import (
    Listen,
    ReplicaPlacement,
    build_config,
    group_key,
    group_of,
    groups_of,
    keeping,
)


def deployment(name: str, replicas: tuple[int, int] = (1, 1), pack: str | None = "p@1", **target: Any) -> Deployment:
    return Deployment(
        name=name,
        target={"model": "org/base", "revision": None, "adapter": None, "dtype": "auto", **target},
        base_draft="d@1",
        pack=pack,
        min_replicas=replicas[0],
        max_replicas=replicas[1],
    )


def test_one_base_with_any_adapters_and_packs_is_one_group() -> None:
    found = groups_of([deployment("b", adapter="org/lora"), deployment("a", pack=None)])
    assert [[model.name for model in group.models] for group in found] == [["a", "b"]]


@pytest.mark.parametrize("other", [{"model": "org/other"}, {"revision": "v2"}, {"dtype": "float32"}])
def test_another_base_revision_or_dtype_is_another_group(other: dict[str, Any]) -> None:
    assert len(groups_of([deployment("a"), deployment("b", **other)])) == 2


def test_shipped_targets_share_the_group_of_their_base() -> None:
    names = ("smollm2-135m-math", "smollm2-135m-code", "smollm2-135m-instruct")
    assert len({group_key({"model": name}) for name in names}) == 1


def test_the_config_is_one_application_per_group_in_ray_s_words() -> None:
    found = groups_of([deployment("a"), deployment("b", (2, 5), adapter="x"), deployment("c", (3, 3), model="org/c")])
    config = build_config(found, Listen("127.0.0.1", 8701))
    parsed = ServeDeploySchema.model_validate(config)
    by_models = {tuple(m["name"] for m in app.deployments[0].user_config["models"]): app for app in parsed.applications}
    shared, single = by_models["a", "b"], by_models["c",]
    key = group_key({"model": "org/base"})
    assert (shared.name, shared.route_prefix) == (f"eda-{key}", f"/groups/{key}")
    scaling = shared.deployments[0].autoscaling_config
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 5)
    assert single.deployments[0].num_replicas == 3
    assert parsed.http_options.host == "127.0.0.1"
    assert build_config([], Listen("127.0.0.1", 8701))["applications"] == []


def test_a_deployment_on_vllm_is_a_group_of_its_own_placed_with_its_gpus() -> None:
    gpu = {"kind": "vllm", "accelerator": "gpu", "vllm": {"tensor_parallel_size": 2}}
    on_cpu = deployment("b").model_copy(update={"engine": {"kind": "vllm"}})
    on_gpu = deployment("c").model_copy(update={"engine": gpu})
    found = groups_of([deployment("a"), on_cpu, on_gpu])
    assert len({group.key for group in found}) == 3
    parsed = ServeDeploySchema.model_validate(build_config(found, Listen("127.0.0.1", 8701)))
    placed = {
        app.deployments[0].user_config["models"][0]["name"]: app.deployments[0].placement_group_bundles
        for app in parsed.applications
    }
    assert placed["b"] == [{"CPU": 0.5}]
    assert placed["c"] == [{"CPU": 0.5, "GPU": 1.0}, {"GPU": 1.0}]
    assert isinstance(placed["a"], type(parsed.applications[0].deployments[0].max_queued_requests))
    (model,) = next(group for group in found if group.models[0].name == "c").models
    assert model.engine.vllm.tensor_parallel_size == 2


def test_proxies_are_on_the_head_or_on_every_node_with_a_replica() -> None:
    found = groups_of([deployment("a")])
    for listen, wanted in ((Listen("0.0.0.0", 8000), "HeadOnly"), (Listen("0.0.0.0", 8000, "EveryNode"), "EveryNode")):
        assert ServeDeploySchema.model_validate(build_config(found, listen)).proxy_location.value == wanted


def test_deployments_whose_vllm_has_room_for_several_adapters_share_it_where_all_else_is_equal() -> None:
    shared = {"kind": "vllm", "vllm": {"max_adapters": 4}}

    def on_vllm(name: str, engine: dict[str, Any] = shared, **changes: Any) -> Deployment:
        return deployment(name).model_copy(update={"engine": engine, **changes})

    one = on_vllm("a")
    assert group_of(one) == group_of(on_vllm("b", pack="other@1"))
    adapted = {**one.target, "adapter": "org/adapter"}
    assert group_of(one) == group_of(on_vllm("c", target=adapted))
    others = [
        on_vllm("d", base_draft="another@1"),
        on_vllm("e", target={**one.target, "model": "org/another"}),
        on_vllm("f", {"kind": "vllm", "vllm": {"max_adapters": 5}}),
        on_vllm("g", {"kind": "vllm"}),
        deployment("h"),
    ]
    assert len({group_of(each) for each in (one, *others)}) == 1 + len(others)
    (group,) = groups_of([one, on_vllm("b", pack="other@1")])
    assert [model.name for model in group.models] == ["a", "b"]


def test_replicas_keep_apart_where_the_service_says_so_but_for_vllms() -> None:
    gpu = {"kind": "vllm", "accelerator": "gpu"}
    found = groups_of([deployment("a"), deployment("c").model_copy(update={"engine": gpu})])
    parsed = ServeDeploySchema.model_validate(build_config(found, Listen("0.0.0.0", 8000), ReplicaPlacement(1.0, 1)))
    ours, vllms = sorted((app.deployments[0] for app in parsed.applications), key=_name)
    assert ours.max_replicas_per_node == 1
    assert ours.ray_actor_options.num_gpus == 1.0
    assert vllms.placement_group_bundles == [{"CPU": 0.5, "GPU": 1.0}]
    (anywhere,) = build_config(found[:1], Listen("0.0.0.0", 8000))["applications"][0]["deployments"]
    assert "max_replicas_per_node" not in anywhere


def _name(deployed: Any) -> str:
    return str(deployed.user_config["models"][0]["name"])


def test_replicas_take_gpus_where_the_service_says_so() -> None:
    listen = Listen("0.0.0.0", 8000)
    plain, with_gpus = (
        build_config(groups_of([deployment("a")]), listen, ReplicaPlacement(gpus)) for gpus in (0.0, 1.0)
    )
    actor = ServeDeploySchema.model_validate(with_gpus).applications[0].deployments[0].ray_actor_options
    assert (actor.num_gpus, actor.num_cpus) == (1.0, 0.5)
    assert "ray_actor_options" not in plain["applications"][0]["deployments"][0]
    assert with_gpus["http_options"] == {"host": "0.0.0.0", "port": 8000}


def test_limits_of_the_engines_reach_their_replicas_and_the_scaling_only_where_they_were_changed() -> None:
    group, listen = groups_of([deployment("a", (1, 2))]), Listen("127.0.0.1", 1)
    usual, changed = (
        build_config(group, listen, limits=limits)["applications"][0]
        for limits in (EngineLimits(), EngineLimits(context=8192, batch=4))
    )
    assert "args" not in usual  # an upgrade starts no replica again
    assert changed["args"] == {"limits": {"context": 8192, "batch": 4}}
    scaling = [each["deployments"][0]["autoscaling_config"]["target_ongoing_requests"] for each in (usual, changed)]
    assert scaling == [16, 4]
    assert ServeDeploySchema.model_validate(build_config(group, listen, limits=EngineLimits(batch=4))).applications


@pytest.mark.parametrize("name", ["EDA_SERVE_CONTEXT", "EDA_SERVE_BATCH", "EDA_SERVE_WAITING"])
@pytest.mark.parametrize(("value", "is_one"), [("100", True), ("-1", False), ("2000000", False), ("many", False)])
def test_limits_are_settings_with_bounds(monkeypatch: pytest.MonkeyPatch, name: str, value: str, is_one: bool) -> None:
    monkeypatch.setenv(name, value)
    if is_one:
        field = name.removeprefix("EDA_SERVE_").lower()
        assert Settings.from_env().limits == EngineLimits(**{field: int(value)})
    else:
        with pytest.raises(InputError, match=name):
            Settings.from_env()


def test_a_name_made_again_on_vllm_has_another_group_and_one_that_is_older_than_uids_keeps_its_own() -> None:
    now = 1_800_000_000
    on_vllm = deployment("b").model_copy(update={"engine": {"kind": "vllm"}, "created_at": now})
    first, again = (on_vllm.model_copy(update={"uid": new_deployment_uid(now)}) for _ in range(2))
    migrated = [on_vllm.model_copy(update={"uid": new_deployment_uid(now + 60)}) for _ in range(2)]
    assert group_of(first) != group_of(again)
    assert {group_of(each) for each in migrated} == {group_of(on_vllm)}
    assert group_of(on_vllm) not in {group_of(first), group_of(again)}
    (group,) = groups_of([first.model_copy(update={"drift": {"keep_prompts": 20}})])
    assert (group.models[0].uid, list(group.keep)) == (first.uid, [first.uid])


def test_a_row_that_cannot_be_read_leaves_the_kept_prompts_of_its_group_alone() -> None:
    """A replica forgets the prompts of deployments that its config does not name under `keep`, by their uids."""
    drift = {"keep_prompts": 10}
    both = [deployment(name).model_copy(update={"drift": drift, "uid": f"dep_{name}"}) for name in ("a", "b")]
    applied = build_config(groups_of(both), Listen("127.0.0.1", 8701))
    wanted = build_config(groups_of(both[:1]), Listen("127.0.0.1", 8701))
    kept = keeping(wanted, applied["applications"], {"b"})
    assert kept == applied
    assert set(kept["applications"][0]["deployments"][0]["user_config"]["keep"]) == {each.uid for each in both}
