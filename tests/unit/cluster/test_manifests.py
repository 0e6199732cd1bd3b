"""The Kubernetes manifests: valid by Kubernetes's and KubeRay's schemas, closed by default, with all that they name."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kuberay import VERSION, check, check_crd
from manifests import OVERLAYS, ROOT, build, documents, find, pod_templates
from ray.serve.schema import ServeDeploySchema

from api.endpoint.app import Endpoint
from api.settings import Settings
from eda_service.config.deployment import EngineSpec
from eda_service.config.job import AdaptConfig
from eda_service.config.overrides import merge
from eda_service.config.presets import preset
from eda_service.jobstore import Deployment
from eda_service.planning.placement import needed_at_once, placements
from eda_service.raycluster.node import loopback_only, no_metrics, node_env, serve_threads, worker_niceness
from eda_service.raycluster.serve_plan import Listen, ReplicaPlacement, build_config, groups_of, replica_bundles
from eda_service.records import Stage

SECRETS = documents(ROOT / "kubernetes" / "base" / "secrets.example.yaml")
BUILT = {overlay: build(overlay) for overlay in OVERLAYS}
EVERY = [(overlay, each) for overlay, manifests in BUILT.items() for each in manifests]
EVERY += [("secrets", each) for each in SECRETS]
RAY = [each for _, each in EVERY if each["apiVersion"].startswith("ray.io/")]


def names(pair: Any) -> str:
    return f"{pair[0]}-{pair[1]['kind']}-{pair[1]['metadata']['name']}" if isinstance(pair, tuple) else ""


@pytest.mark.parametrize("pair", EVERY, ids=names)
def test_each_manifest_is_valid(pair: tuple[str, dict[str, Any]]) -> None:
    manifest = pair[1]
    if manifest["apiVersion"].startswith("ray.io/"):
        check(manifest)
    else:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "eda"


def test_a_misspelt_field_is_noticed() -> None:
    cluster = build("base")
    broken = find(cluster, "RayCluster", "eda")
    broken["spec"]["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="minReplica"):
        check(broken)
    broken = find(build("base"), "RayCluster", "eda")
    broken["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(jsonschema.ValidationError, match="volumeMount"):
        check(broken)


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names no directory of KubeRay's CRDs")
@pytest.mark.parametrize("manifest", RAY, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_the_real_crds_accept_them(manifest: dict[str, Any]) -> None:
    crds = [each for path in Path(os.environ["KUBERAY_CRDS"]).glob("*.yaml") for each in documents(path)]
    check_crd(manifest, crds)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_have_no_more_rights_than_they_need(overlay: str) -> None:
    for name, template in pod_templates(BUILT[overlay]):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        # Only the head has a token of Kubernetes: its autoscaler asks for pods.
        assert spec["automountServiceAccountToken"] is name.endswith("/head"), name
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/tmp", "/home/eda"} <= mounted, name
            assert "memory" in container["resources"]["limits"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_pods_refer_to_is_there(overlay: str) -> None:
    known = {(each["kind"], each["metadata"]["name"]) for each in [*BUILT["base"], *SECRETS]}
    known |= {("Secret", "eda")}  # KubeRay makes it, with the RayCluster's token
    for name, template in pod_templates(BUILT[overlay]):
        text = yaml.safe_dump(template)
        wanted = {("ConfigMap", each) for each in re.findall(r"configMapRef:\n\s+name: (\S+)", text)}
        wanted |= {("Secret", each) for each in re.findall(r"secretRef:\n\s+name: (\S+)", text)}
        wanted |= {("Secret", each) for each in re.findall(r"secretName: (\S+)", text)}
        wanted |= {("Secret", each) for each in re.findall(r"secretKeyRef:\n\s+key: \S+\n\s+name: (\S+)", text)}
        wanted |= {("ServiceAccount", template["spec"]["serviceAccountName"])}
        assert wanted <= known, (name, wanted - known)
        volumes = {each["name"] for each in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, name


def test_no_secret_stands_in_a_manifest() -> None:
    assert all(
        set(each["stringData"].values()) <= {""} or each["metadata"]["name"] == "eda-database" for each in SECRETS
    )
    for overlay in OVERLAYS:
        assert not [each for each in BUILT[overlay] if each["kind"] == "Secret"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_asks_for_a_token_and_is_not_exposed(overlay: str) -> None:
    for each in BUILT[overlay]:
        spec = each.get("spec", {})
        cluster = {"RayCluster": spec, "RayService": spec.get("rayClusterConfig"), "RayJob": spec.get("rayClusterSpec")}
        if each["kind"] in cluster:
            found = cluster[each["kind"]]
            assert found["authOptions"] == {"mode": "token"}
            assert (found["headGroupSpec"]["serviceType"], found["headGroupSpec"]["enableIngress"]) == (
                "ClusterIP",
                False,
            )
        if each["kind"] == "Service":
            assert spec["type"] == "ClusterIP"
        assert each["kind"] != "Ingress"


def test_the_network_is_closed_but_for_what_is_named() -> None:
    policies = [each for each in BUILT["base"] if each["kind"] == "NetworkPolicy"]
    deny = find(policies, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    reached = {
        (policy["metadata"]["name"], port["port"])
        for policy in policies
        for rule in policy["spec"].get("ingress", [])
        for port in rule.get("ports", [])
    }
    assert reached == {("api", 8700), ("ray", 8265), ("ray", 8000)}
    for policy in policies:
        assert all(rule.get("from") for rule in policy["spec"].get("ingress", [])), policy["metadata"]["name"]


def test_the_api_reads_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    data = {**find(BUILT["base"], "ConfigMap", "eda-settings")["data"]}
    data |= find(BUILT["base"], "ConfigMap", "eda-api-settings")["data"]
    fields = {f"EDA_{name.upper()}" for name in Settings.model_fields} | {"EDA_STORAGE", "HF_HOME"}
    assert set(data) <= fields
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EDA_DATABASE_URL", SECRETS[0]["stringData"]["url"])
    settings = Settings.from_env()
    assert (settings.serve_url, settings.serve_gpus) == ("http://eda-head-svc:8000", 1.0)
    api = find(BUILT["base"], "Deployment", "eda-api")["spec"]["template"]["spec"]
    assert settings.drain_s < api["terminationGracePeriodSeconds"]
    mounted = {mount["mountPath"] for mount in api["containers"][0]["volumeMounts"]}
    assert {
        str(settings.home),
        f"{settings.home}/ui",
        str(settings.ray_token_path and settings.ray_token_path.parent),
    } <= mounted


def test_ray_pods_are_told_what_eda_up_tells_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*worker_niceness(), *serve_threads()):
        monkeypatch.delenv(name, raising=False)
    told = find(BUILT["base"], "ConfigMap", "eda-ray-settings")["data"]
    own = {"DS_ACCELERATOR", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}  # of one machine; a pod has one address
    own |= {*no_metrics(), *loopback_only(True)}  # pods are behind a network policy, and may be scraped
    assert {name: value for name, value in node_env("127.0.0.1").items() if name not in own} == told


def test_the_endpoints_are_what_the_service_would_deploy() -> None:
    service = find(BUILT["endpoints"], "RayService", "eda-endpoints")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    parsed = ServeDeploySchema.model_validate(config)
    (model,) = config["applications"][0]["deployments"][0]["user_config"]["models"]
    deployment = Deployment(
        name=model["name"], target=model["target"], base_draft=model["base_draft"], pack=model["pack"],
        min_replicas=1, max_replicas=4,
    )  # fmt: skip
    wanted = build_config(groups_of([deployment]), Listen("0.0.0.0", 8000), ReplicaPlacement(1.0))
    assert config == {**wanted, "proxy_location": "EveryNode"}
    assert parsed.applications[0].deployments[0].name == Endpoint.name


def test_overlays_differ_where_they_should() -> None:
    small, large = (find(BUILT[overlay], "RayCluster", "eda")["spec"] for overlay in ("small", "large"))
    assert [group["groupName"] for group in small["workerGroupSpecs"]] == ["cpu"]
    images = {
        container["image"]
        for _, template in pod_templates(BUILT["small"])
        for container in template["spec"]["containers"]
    }
    assert images == {"eda-service:0.2.0-cpu"}
    assert large["workerGroupSpecs"][1]["maxReplicas"] == 64
    assert "gcsFaultToleranceOptions" in large
    assert "gcsFaultToleranceOptions" not in small


@pytest.mark.parametrize("name", ["8b", "70b", "235b"])
def test_pods_for_large_targets_hold_an_engine_and_a_replica(name: str) -> None:
    groups = find(BUILT["large-targets"], "RayCluster", "eda")["spec"]["workerGroupSpecs"]
    (group,) = [each for each in groups if each["groupName"] == "gpu"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    pod_gpus = limits["nvidia.com/gpu"]
    config = AdaptConfig.model_validate(merge(preset(name), {"target": {"model": "org/large"}}))
    engine = placements(config)[Stage.GENERATE]
    assert engine.nodes == 1
    assert engine.gpus <= pod_gpus
    assert engine.cpus * (pod_gpus // engine.gpus) <= int(limits["cpu"])
    assert needed_at_once(config).gpus <= pod_gpus * group["maxReplicas"]
    served = EngineSpec.model_validate(
        {"kind": "vllm", "accelerator": "gpu", "vllm": {"tensor_parallel_size": engine.gpus}}
    )
    assert sum(bundle.get("GPU", 0) for bundle in replica_bundles(served)) == engine.gpus
