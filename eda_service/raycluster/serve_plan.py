"""What is asked of Ray Serve: one application per group of deployments that share a base target.

A group is everything served from one base model, revision and dtype, whatever adapters and packs: its replica holds
that target once. So replicas and their number belong to a group, and a request passes one proxy. A deployment on vLLM
is a group of its own, unless its vLLM has room for several adapters: then all on one base target with one base draft
and equal settings are a group.

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
        uid: Of its deployment; a name that is deleted and made again is another deployment. Empty outside the service.
        attempt: Number of the attempt to load it; one that has failed is made again only under another number.
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
        """The same, whichever attempt it is."""
        return self.model_copy(update={"attempt": 0})

    @property
    def key(self) -> str:
        """What a replica knows it by."""
        return self.uid or self.name


@dataclass(frozen=True)
class DeploymentGroup:
    """Deployments on one base target.

    Attributes:
        key: Eight hex digits that stand for base model, revision and dtype, for a deployment on vLLM, or for those that
            share a vLLM.
        models: What its replicas serve, by name.
        keep: By uid: drift settings of the models that keep prompts.
        engine: What decodes all of them.
        min_replicas: The largest that any of its deployments asks for.
        max_replicas: Likewise.
        round_ms: The smallest bound on a round's time that any of its deployments gives, if one does.
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
        """Serve's name for the group."""
        return application_of(self.key)


@dataclass(frozen=True)
class Listen:
    """Where Serve's proxies listen.

    Attributes:
        host: Address, on each node with a proxy.
        port: Likewise.
        proxy_location: `HeadOnly`, or `EveryNode` that has a replica and the head; Serve's own terms.
    """

    host: str
    port: int
    proxy_location: str = "HeadOnly"


@dataclass(frozen=True)
class ReplicaPlacement:
    """Where replicas go.

    Attributes:
        gpus: Of each replica of ours.
        max_per_node: Replicas of a group on one node, those on vLLM aside, which have their GPUs to part them. None:
            no limit, and two may meet on a node that then takes both with it.
    """

    gpus: float = 0.0
    max_per_node: int | None = None


ANYWHERE = ReplicaPlacement()
USUAL = EngineLimits()


def group_key(target: Mapping[str, Any]) -> str:
    """The group that a target (a TargetSpec as JSON) belongs to."""
    base = shipped_base(str(target["model"])) or target["model"]
    text = json.dumps([base, target.get("revision"), target.get("dtype", "auto")])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def group_of(deployment: Deployment) -> str:
    """The group of a deployment. One on vLLM has a group of its own or shares one; those that are older than uids keep
    the group that they had by their name, as another one would be another vLLM.
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
    """Name of a group's application."""
    return f"eda-{key}"


def route_prefix_of(key: str) -> str:
    """Path under which a group's replicas answer."""
    return f"/groups/{key}"


def groups_of(deployments: Iterable[Deployment], loads: Mapping[str, Load] | None = None) -> list[DeploymentGroup]:
    """What is to be served by group, in the order of the keys.

    Args:
        deployments: What is wanted.
        loads: By name, how loading goes: what cannot be loaded is not served, or as it was served before.
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
    """The wanted state of Serve as a `ServeDeploySchema` dict; it listens behind the API's gateway.

    Args:
        groups: What is served.
        listen: Where.
        placement: Of replicas.
        limits: Of each engine. Serve starts replicas again when they change.
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
    """A wanted state that goes on serving some names as they were served before.

    Args:
        wanted: From `build_config`, without those names.
        applied: Applications as they were applied before.
        names: Of deployments whose rows cannot be read now: to serve nothing there would end what works.
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
    """The models in an application's config; none where it has another form than ours."""
    try:
        return list(application["deployments"][0]["user_config"]["models"])
    except (KeyError, IndexError, TypeError):
        return []


def _user_config(group: DeploymentGroup) -> dict[str, Any]:
    models = [model.model_dump(mode="json", exclude_defaults=True) for model in group.models]
    return {"models": models, "keep": dict(group.keep)} if group.keep else {"models": models}


def _place(group: DeploymentGroup, placement: ReplicaPlacement) -> dict[str, Any]:
    """Where a replica runs: ours with its GPUs, if any; a vLLM replica's processes and GPUs together with it."""
    if group.engine.kind is EngineKind.EDA:
        gpus, most = placement.gpus, placement.max_per_node
        place: dict[str, Any] = {"ray_actor_options": {"num_cpus": REPLICA_CPUS, "num_gpus": gpus}} if gpus else {}
        return place if most is None else {**place, "max_replicas_per_node": most}
    return {"placement_group_bundles": replica_bundles(group.engine), "placement_group_strategy": "PACK"}


def _replicas(group: DeploymentGroup, limits: EngineLimits) -> dict[str, Any]:
    if group.min_replicas == group.max_replicas:
        return {"num_replicas": group.min_replicas}
    # Another replica when the running ones decode a full batch each.
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
    """Ray's placement group of one replica: the first bundle also holds the replica itself."""
    if engine.accelerator is Accelerator.CPU:
        return [{"CPU": REPLICA_CPUS}]
    return [{"CPU": REPLICA_CPUS, "GPU": 1.0}, *({"GPU": 1.0} for _ in range(engine.vllm.tensor_parallel_size - 1))]
