"""The declarative Serve config: one application per group of deployments that share a base target, applied over REST.

A group is everything served from one base model, revision and dtype, whatever adapters and packs: its replica holds
that target once. So replicas and their number belong to a group, and a request passes one proxy. A deployment on vLLM
is a group of its own: vLLM holds one target with one draft.

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

import httpx
from pydantic import BaseModel, ConfigDict

from eda_service.config.deployment import EngineLimits, EngineSpec
from eda_service.config.job import EngineKind
from eda_service.jobstore import Deployment, Load, served_version
from eda_service.raycluster.jobs_api import ClusterUnreachableError
from eda_service.raycluster.vllm_environment import bundles
from eda_service.targets.resolve import shipped_base

DEPLOYMENT = "Endpoint"
REPLICA_CPUS = 0.5
IMPORT_PATH = "api.serving.app:build_app"
UID_HEADER = "x-eda-deployment"  # set by the gateway: which deployment a request is for, whatever has its name now
SCALING_POLICY = "eda_service.raycluster.scaling:QueueAndRoundTime"
_PATH = "/api/serve/applications/"
_TIMEOUT_S = 60.0  # the first PUT starts the Serve controller before it answers


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
class Group:
    """Deployments on one base target.

    Attributes:
        key: Eight hex digits that stand for base model, revision and dtype, or for a deployment on vLLM.
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
class Placement:
    """Where replicas go.

    Attributes:
        gpus: Of each replica of ours.
        max_per_node: Replicas of a group on one node, those on vLLM aside, which have their GPUs to part them. None:
            no limit, and two may meet on a node that then takes both with it.
    """

    gpus: float = 0.0
    max_per_node: int | None = None


ANYWHERE = Placement()
USUAL = EngineLimits()


@dataclass(frozen=True)
class Application:
    """Serve's word about one application.

    Attributes:
        status: `RUNNING`, `DEPLOYING`, `DEPLOY_FAILED`, `UNHEALTHY`, ...
        message: Why, when it is not running.
        num_running: Replicas that take requests; None while Serve builds the application and does not list them.
        config: What was applied for it last, as Serve remembers it; None when it does not say.
    """

    status: str
    message: str
    num_running: int | None
    config: Mapping[str, Any] | None = None


def group_key(target: Mapping[str, Any]) -> str:
    """The group that a target (a TargetSpec as JSON) belongs to."""
    base = shipped_base(str(target["model"])) or target["model"]
    text = json.dumps([base, target.get("revision"), target.get("dtype", "auto")])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:8]


def group_of(deployment: Deployment) -> str:
    """The group of a deployment. One on vLLM has a group of its own; those that are older than uids keep the group that
    they had by their name, as another one would be another vLLM.
    """
    if deployment.engine_spec.kind is EngineKind.EDA:
        return group_key(deployment.target)
    own = deployment.uid if deployment.has_own_uid else deployment.name
    return hashlib.sha256(json.dumps([EngineKind.VLLM, own]).encode("utf-8")).hexdigest()[:8]


def application_of(key: str) -> str:
    """Name of a group's application."""
    return f"eda-{key}"


def route_prefix_of(key: str) -> str:
    """Path under which a group's replicas answer."""
    return f"/groups/{key}"


def groups_of(deployments: Iterable[Deployment], loads: Mapping[str, Load] | None = None) -> list[Group]:
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
        Group(
            key=key,
            models=tuple(
                ServedModel(
                    name=each.name,
                    uid=each.uid,
                    target=each.target,
                    base_draft=each.base_draft,
                    pack=each.pack,
                    engine=each.engine_spec,
                    attempt=loads[each.name].attempt if each.name in loads else 0,
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
    groups: Sequence[Group], listen: Listen, placement: Placement = ANYWHERE, limits: EngineLimits = USUAL
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
        known = {str(each["name"]) for each in config["models"]}
        keep = {name: value for name, value in {**keep, **config.get("keep", {})}.items() if name in known}
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


def _user_config(group: Group) -> dict[str, Any]:
    models = [model.model_dump(mode="json", exclude_defaults=True) for model in group.models]
    return {"models": models, "keep": dict(group.keep)} if group.keep else {"models": models}


def _place(group: Group, placement: Placement) -> dict[str, Any]:
    """Where a replica runs: ours with its GPUs, if any; a vLLM replica's processes and GPUs together with it."""
    if group.engine.kind is EngineKind.EDA:
        gpus, most = placement.gpus, placement.max_per_node
        place: dict[str, Any] = {"ray_actor_options": {"num_cpus": REPLICA_CPUS, "num_gpus": gpus}} if gpus else {}
        return place if most is None else {**place, "max_replicas_per_node": most}
    return {"placement_group_bundles": bundles(group.engine, REPLICA_CPUS), "placement_group_strategy": "PACK"}


def _replicas(group: Group, limits: EngineLimits) -> dict[str, Any]:
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


class ServeApi:
    """Client of one cluster's Serve REST API."""

    def __init__(self, dashboard_url: str, headers: Mapping[str, str] | None = None) -> None:
        self._http = httpx.Client(base_url=dashboard_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def applications(self) -> dict[str, Application]:
        """What Serve runs, by name.

        Raises:
            ClusterUnreachableError: The dashboard does not answer.
        """
        found = self._request("GET").json().get("applications", {})
        return {name: _application(details) for name, details in found.items()}

    def apply(self, config: dict[str, Any]) -> None:
        """Make `config` the wanted state; Serve moves towards it by itself.

        Raises:
            ClusterUnreachableError: The dashboard does not answer or refuses the config.
        """
        self._request("PUT", json=config)

    def _request(self, method: str, **kwargs: Any) -> httpx.Response:
        try:
            response = self._http.request(method, _PATH, **kwargs)
        except httpx.HTTPError as error:
            raise ClusterUnreachableError(f"the Serve API does not answer: {type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            raise ClusterUnreachableError(f"the Serve API answered {response.status_code}: {response.text[:300]}")
        return response


def _application(details: Mapping[str, Any]) -> Application:
    replicas = details.get("deployments", {}).get(DEPLOYMENT, {}).get("replicas")
    running = None if replicas is None else sum(replica.get("state") == "RUNNING" for replica in replicas)
    config = details.get("deployed_app_config")
    return Application(str(details.get("status")), str(details.get("message", "")), running, config)
