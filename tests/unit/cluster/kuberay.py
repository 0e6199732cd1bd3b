"""JSON schemas for KubeRay's kinds, v1: the fields that KubeRay 1.5 and later have; pods by Kubernetes's own schema.

Written from KubeRay's API reference, because its CRDs are in none of the package registries that this project's tests
draw on. Where the real ones are at hand, KUBERAY_CRDS names their directory and a test holds the manifests against
them. Every object is closed: a field that is misspelt, or that only another version has, is an error.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry, Resource

VERSION = "1.34"
_SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict"
_ID = "https://kubernetes.io/api/_definitions.json"  # what Kubernetes's definitions call themselves
_POD_TEMPLATE: dict[str, Any] = {"$ref": f"{_ID}#/$defs/io.k8s.api.core.v1.PodTemplateSpec"}
_RESOURCES: dict[str, Any] = {"$ref": f"{_ID}#/$defs/io.k8s.api.core.v1.ResourceRequirements"}
_SECURITY: dict[str, Any] = {"$ref": f"{_ID}#/$defs/io.k8s.api.core.v1.SecurityContext"}
_SERVICE: dict[str, Any] = {"$ref": f"{_ID}#/$defs/io.k8s.api.core.v1.Service"}
_ENV_SOURCE: dict[str, Any] = {"$ref": f"{_ID}#/$defs/io.k8s.api.core.v1.EnvVarSource"}
_META: dict[str, Any] = {"$ref": f"{_ID}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
_TEXT: dict[str, Any] = {"type": "string"}
_FLAG: dict[str, Any] = {"type": "boolean"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": _TEXT}


def _closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


_CREDENTIAL = _closed(value=_TEXT, valueFrom=_ENV_SOURCE)
_HEAD = _closed(
    ("template", "rayStartParams"),
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    headService=_SERVICE,
    enableIngress=_FLAG,
    rayStartParams=_TEXTS,
    template=_POD_TEMPLATE,
)
_WORKERS = _closed(
    ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    groupName=_TEXT,
    replicas=_COUNT,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    numOfHosts=_COUNT,
    idleTimeoutSeconds=_COUNT,
    rayStartParams=_TEXTS,
    template=_POD_TEMPLATE,
)
_CLUSTER = _closed(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    authOptions=_closed(mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_closed(
        resources=_RESOURCES,
        securityContext=_SECURITY,
        idleTimeoutSeconds=_COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        version={"enum": ["v1", "v2"]},
    ),
    gcsFaultToleranceOptions=_closed(
        ("redisAddress",),
        redisAddress=_TEXT,
        redisUsername=_CREDENTIAL,
        redisPassword=_CREDENTIAL,
        externalStorageNamespace=_TEXT,
    ),
    headServiceAnnotations=_TEXTS,
    suspend=_FLAG,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
)
_SPECS = {
    "RayCluster": _CLUSTER,
    "RayService": _closed(
        ("rayClusterConfig",),
        serveConfigV2=_TEXT,
        serveService=_SERVICE,
        upgradeStrategy=_closed(type={"enum": ["NewCluster", "None"]}),
        rayClusterConfig=_CLUSTER,
    ),
    "RayJob": _closed(
        ("entrypoint",),
        entrypoint=_TEXT,
        entrypointNumCpus={"type": "number", "minimum": 0},
        runtimeEnvYAML=_TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        submitterPodTemplate=_POD_TEMPLATE,
        backoffLimit=_COUNT,
        activeDeadlineSeconds=_COUNT,
        shutdownAfterJobFinishes=_FLAG,
        ttlSecondsAfterFinished=_COUNT,
        clusterSelector=_TEXTS,
        suspend=_FLAG,
        rayClusterSpec=_CLUSTER,
    ),
}


@cache
def _definitions() -> Registry[Any]:
    return Resource.from_contents(json.loads((_SCHEMAS / "_definitions.json").read_text(encoding="utf-8"))) @ Registry()


def check(manifest: dict[str, Any]) -> None:
    """Hold a manifest of KubeRay's against its schema.

    Raises:
        jsonschema.ValidationError: It is none.
    """
    schema = _closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": manifest["kind"]},
        metadata=_META,
        spec=_SPECS[manifest["kind"]],
    )
    jsonschema.Draft202012Validator(schema, registry=_definitions()).validate(manifest)


def check_crd(manifest: dict[str, Any], crds: list[dict[str, Any]]) -> None:
    """Hold a manifest against the real CRD of its kind, as the API server does: unknown fields are errors.

    Raises:
        jsonschema.ValidationError: It is none.
    """
    (crd,) = [each for each in crds if each["spec"]["names"]["kind"] == manifest["kind"]]
    (version,) = [each for each in crd["spec"]["versions"] if each["name"] == "v1"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {}
    jsonschema.validate(manifest, schema)


def _strict(schema: Any) -> Any:
    """A CRD's schema in JSON Schema's words, with its objects closed."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) for name, value in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    if (
        isinstance(made.get("properties"), dict)
        and "type" in made
        and not made.get("x-kubernetes-preserve-unknown-fields")
    ):
        made.setdefault("additionalProperties", False)
    return made
