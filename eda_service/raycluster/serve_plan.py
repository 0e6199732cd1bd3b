"""The wanted state of Ray Serve: one application per group of deployments that share a base target.

A group is everything served from one base model, revision and dtype, whatever adapters and packs: its replica holds
that target once. So replicas and their number belong to a group, and a request passes one proxy. A deployment on vLLM
is a group of its own, unless its vLLM can hold several adapters: then all deployments on one base target with one base
draft and equal settings are a group.

Schema: `ray.serve.schema.ServeDeploySchema` (Ray 2.60). A change of `user_config` or of the number of replicas is
applied to live replicas in place: a new pack is swapped in without a restart.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from eda_service.config.deployment import Accelerator, EngineLimits, EngineSpec
from eda_service.config.job import EngineKind
from eda_service.jobstore import Deployment, Load, load_of, served_version
from eda_service.targets.files.resolve import shipped_base

DEPLOYMENT = "Endpoint"
REPLICA_CPUS = 0.5
IMPORT_PATH = "api.endpoint.app:build_app"
UID_HEADER = "x-eda-deployment"  # set by the gateway: which deployment a request is for, whatever has its name now
SCALING_POLICY = "eda_service.raycluster.scaling:QueueAndRoundTime"


class ServedModel(BaseModel):
    """One entry of the endpoint's `user_config`.

    Attributes:
        uid: Id of its deployment; a name that is deleted and made again is another deployment. Empty outside the
            service.
        attempt: Number of the attempt to load it; a failed attempt is repeated only under another number.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    uid: str = ""
    target: dict[str, Any]
    base_draft: str | None
    pack: str | None
    engine: EngineSpec = EngineSpec()
    attempt: int = 0

    @property
    def content(self) -> ServedModel:
        """The entry without the number of the attempt."""
        return self.model_copy(update={"attempt": 0})

    @property
    def key(self) -> str:
        """The key of the model in a replica."""
        return self.uid or self.name


@dataclass(frozen=True)
class DeploymentGroup:
    """Deployments on one base target.

    Attributes:
        key: Eight hex digits that stand for base model, revision and dtype, for a deployment on vLLM, or for the
            deployments that share a vLLM.
        models: Models that its replicas serve, by name.
        keep: Drift settings, by uid, of the models that keep prompts.
        engine: Engine that decodes all of them.
        min_replicas: Largest lower bound of its deployments.
        max_replicas: Largest upper bound of its deployments.
        round_ms: Smallest bound on a round's time of its deployments, if any has one.
    """

    key: str
    models: tuple[ServedModel, ...]
    min_replicas: int
    max_replicas: int
    round_ms: int | None
    keep: Mapping[str, Mapping[str, Any]]
    engine: EngineSpec

    @property
    def application(self) -> str:
        """Serve's name of the group."""
        return application_of(self.key)


@dataclass(frozen=True)
class Listen:
    """The address of Serve's proxies.

    Attributes:
        host: Address on each node with a proxy.
        port: Port on each node with a proxy.
        proxy_location: Serve's word: `HeadOnly`, or `EveryNode` that has a replica and the head.
    """

    host: str
    port: int
    proxy_location: str = "HeadOnly"


@dataclass(frozen=True)
class ReplicaPlacement:
    """The placement of replicas.

    Attributes:
        gpus: GPUs of each replica of the project's own engine.
        max_per_node: Largest number of replicas of a group on one node, except those on vLLM, which their GPUs
            separate. None: no limit, and a failing node may take several replicas with it.
    """

    gpus: float = 0.0
    max_per_node: int | None = None


ANYWHERE = ReplicaPlacement()
USUAL = EngineLimits()


def group_key(target: Mapping[str, Any]) -> str:
    """Return the group that a target (a TargetSpec as JSON) belongs to."""
    base = shipped_base(str(target["model"])) or target["model"]
    text = json.dumps([base, target.get("revision"), target.get("dtype", "auto")])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def group_of(deployment: Deployment) -> str:
    """Return the group of a deployment. A deployment on vLLM has a group of its own or shares one; deployments older
    than uids keep the group of their name, because another group would start another vLLM.
    """
    engine = deployment.engine_spec
    if engine.kind is EngineKind.EDA:
        return group_key(deployment.target)
    if engine.vllm.is_shared:
        changed = engine.model_dump(mode="json", exclude_defaults=True)
        shared = [EngineKind.VLLM, group_key(deployment.target), deployment.base_draft, changed]
        return hashlib.sha256(json.dumps(shared, sort_keys=True).encode("utf-8")).hexdigest()[:8]
    own = deployment.uid if deployment.has_own_uid else deployment.name
    return hashlib.sha256(json.dumps([EngineKind.VLLM, own]).encode("utf-8")).hexdigest()[:8]


def application_of(key: str) -> str:
    """Return the name of a group's application."""
    return f"eda-{key}"


def route_prefix_of(key: str) -> str:
    """Return the path under which a group's replicas answer."""
    return f"/groups/{key}"


def groups_of(deployments: Iterable[Deployment], loads: Mapping[str, Load] | None = None) -> list[DeploymentGroup]:
    """Group the deployments to serve, in the order of the keys.

    Args:
        deployments: Wanted deployments.
        loads: State of loading by name: a model that cannot be loaded is not served, or as it was served before.
    """
    loads = loads or {}
    members: dict[str, list[Deployment]] = {}
    for wanted in deployments:
        each = served_version(wanted, loads.get(wanted.name))
        if each is not None:
            members.setdefault(group_of(each), []).append(each)
    return [
        DeploymentGroup(
            key=key,
            models=tuple(
                ServedModel(
                    name=each.name,
                    uid=each.uid,
                    target=each.target,
                    base_draft=each.base_draft,
                    pack=each.pack,
                    engine=each.engine_spec,
                    attempt=load_of(loads, each.name).attempt,
                )
                for each in sorted(found, key=lambda each: each.name)
            ),
            min_replicas=max(each.min_replicas for each in found),
            max_replicas=max(each.max_replicas for each in found),
            round_ms=min((each.round_ms for each in found if each.round_ms is not None), default=None),
            keep={each.uid: each.drift for each in found if each.drift.get("keep_prompts")},
            engine=found[0].engine_spec,
        )
        for key, found in sorted(members.items())
    ]


def build_config(
    groups: Sequence[DeploymentGroup],
    listen: Listen,
    placement: ReplicaPlacement = ANYWHERE,
    limits: EngineLimits = USUAL,
) -> dict[str, Any]:
    """Make the wanted state of Serve as a `ServeDeploySchema` dict; Serve listens behind the API's gateway.

    Args:
        groups: Groups to serve.
        listen: Address of the proxies.
        placement: Placement of replicas.
        limits: Limits of each engine. Serve restarts replicas if they change.
    """
    changed = limits.model_dump(exclude_defaults=True)
    return {
        "proxy_location": listen.proxy_location,
        "http_options": {"host": listen.host, "port": listen.port},
        "applications": [
            {
                "name": group.application,
                "route_prefix": route_prefix_of(group.key),
                "import_path": IMPORT_PATH,
                **({"args": {"limits": changed}} if changed else {}),
                "deployments": [
                    {
                        "name": DEPLOYMENT,
                        **_replicas(group, limits),
                        **_place(group, placement),
                        "user_config": _user_config(group),
                    }
                ],
            }
            for group in groups
        ],
    }


def keeping(
    wanted: dict[str, Any], applied: Iterable[Mapping[str, Any] | None], names: Collection[str]
) -> dict[str, Any]:
    """Add to a wanted state those names that must stay served as before.

    Args:
        wanted: Wanted state from `build_config`, without those names.
        applied: Applications as they were applied before.
        names: Names of deployments whose rows cannot be read now; their running replicas must not end.
    """
    applications = {each["name"]: each for each in wanted["applications"]}
    for before in applied:
        old = None if before is None else models_of(before)
        models = [each for each in old or () if each.get("name") in names]
        if before is None or not models:
            continue
        kept = copy.deepcopy(dict(applications.get(before["name"], before)))
        config = kept["deployments"][0]["user_config"]
        others = [each for each in config["models"] if each.get("name") not in names]
        config["models"] = sorted([*others, *models], key=lambda each: str(each["name"]))
        if before["name"] not in applications:
            config["models"] = models
        keep = before["deployments"][0]["user_config"].get("keep", {})
        uids = {str(each.get("uid")) for each in config["models"]}
        keep = {uid: value for uid, value in {**keep, **config.get("keep", {})}.items() if uid in uids}
        config.pop("keep", None)
        if keep:
            config["keep"] = keep
        applications[before["name"]] = kept
    return {**wanted, "applications": [applications[name] for name in sorted(applications)]}


def models_of(application: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the models in an application's config; none if its form is not ours."""
    try:
        return list(application["deployments"][0]["user_config"]["models"])
    except (KeyError, IndexError, TypeError):
        return []


def _user_config(group: DeploymentGroup) -> dict[str, Any]:
    models = [model.model_dump(mode="json", exclude_defaults=True) for model in group.models]
    return {"models": models, "keep": dict(group.keep)} if group.keep else {"models": models}


def _place(group: DeploymentGroup, placement: ReplicaPlacement) -> dict[str, Any]:
    """Return where a replica runs: one of ours with its GPUs, if any; a vLLM replica's processes and
    GPUs on its node.
    """
    if group.engine.kind is EngineKind.EDA:
        gpus, most = placement.gpus, placement.max_per_node
        place: dict[str, Any] = {"ray_actor_options": {"num_cpus": REPLICA_CPUS, "num_gpus": gpus}} if gpus else {}
        return place if most is None else {**place, "max_replicas_per_node": most}
    return {"placement_group_bundles": replica_bundles(group.engine), "placement_group_strategy": "PACK"}


def _replicas(group: DeploymentGroup, limits: EngineLimits) -> dict[str, Any]:
    if group.min_replicas == group.max_replicas:
        return {"num_replicas": group.min_replicas}
    # Start another replica when the running ones decode a full batch each.
    batch = group.engine.vllm.max_num_seqs if group.engine.kind is EngineKind.VLLM else limits.batch
    scaling: dict[str, Any] = {
        "min_replicas": group.min_replicas,
        "max_replicas": group.max_replicas,
        "target_ongoing_requests": batch,
    }
    if group.round_ms is not None:
        bounds = {"requests": batch, "round_s": group.round_ms / 1000}
        scaling["policy"] = {"policy_function": SCALING_POLICY, "policy_kwargs": bounds}
    return {"autoscaling_config": scaling}


def replica_bundles(engine: EngineSpec) -> list[dict[str, float]]:
    """Return Ray's placement group of one replica: the first bundle also holds the replica itself."""
    if engine.accelerator is Accelerator.CPU:
        return [{"CPU": REPLICA_CPUS}]
    return [{"CPU": REPLICA_CPUS, "GPU": 1.0}, *({"GPU": 1.0} for _ in range(engine.vllm.tensor_parallel_size - 1))]
