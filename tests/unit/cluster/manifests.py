"""The manifests of cluster/kubernetes as Kubernetes gets them: a kustomization's resources, JSON patches and images.

No more of Kustomize than these files use; anything else in a kustomization is an error here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3] / "cluster"
OVERLAYS = ("base", "small", "large", "large-targets", "endpoints", "adapt")
_KNOWN = {"apiVersion", "kind", "namespace", "resources", "patches", "images"}

Manifest = dict[str, Any]


def build(overlay: str) -> list[Manifest]:
    """All manifests of an overlay."""
    return _build(ROOT / "kubernetes" / overlay)


def documents(path: Path) -> list[Manifest]:
    """The documents of a YAML file."""
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each is not None]


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one of that kind and name."""
    (found,) = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template, with a name for messages."""
    for each in manifests:
        name, spec = f"{each['kind']}/{each['metadata']['name']}", each.get("spec", {})
        if each["kind"] == "Deployment":
            yield name, spec["template"]
        cluster = {"RayCluster": spec, "RayService": spec.get("rayClusterConfig"), "RayJob": spec.get("rayClusterSpec")}
        if each["kind"] in cluster:
            groups = cluster[each["kind"]]
            yield f"{name}/head", groups["headGroupSpec"]["template"]
            yield from ((f"{name}/{group['groupName']}", group["template"]) for group in groups["workerGroupSpecs"])
        if "submitterPodTemplate" in spec:
            yield f"{name}/submitter", spec["submitterPodTemplate"]


def _build(directory: Path) -> list[Manifest]:
    (kustomization,) = documents(directory / "kustomization.yaml")
    assert set(kustomization) <= _KNOWN, set(kustomization) - _KNOWN
    found: list[Manifest] = []
    for resource in kustomization["resources"]:
        path = directory / resource
        found += _build(path) if path.is_dir() else documents(path)
    for patch in kustomization.get("patches", []):
        target = find(found, patch["target"]["kind"], patch["target"]["name"])
        for operation in yaml.safe_load(patch["patch"]):
            _apply(target, **operation)
    tags = {image["name"]: image["newTag"] for image in kustomization.get("images", [])}
    for manifest in found:
        if manifest["kind"] == "Deployment":
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                name, _, tag = container["image"].partition(":")
                container["image"] = f"{name}:{tags.get(name, tag)}"
    return found


def _apply(target: Manifest, op: str, path: str, value: Any = None) -> None:
    """One operation of RFC 6902."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
    place: Any = target
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    key: Any = int(last) if isinstance(place, list) else last
    if op == "add" and isinstance(place, dict):
        place[key] = copy.deepcopy(value)
        return
    before = place[key]  # a path that is not there is an error
    if op == "remove":
        del place[key]
    else:
        assert (op, type(value)) == ("replace", type(before)), (op, path, value, before)
        place[key] = value
