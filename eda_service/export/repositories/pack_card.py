"""The model card of a pack: licence, base model, data sets, measurements, use; and the manifest in the form for other
users.

Names that exist only on this machine are left out or shortened to their last part: paths of prompts and targets, other
packs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from eda_service.config.job import AdaptConfig
from eda_service.errors import InputError
from eda_service.names import is_model_id
from eda_service.records import ADAPTED, BASE, PackManifest
from eda_service.storage.published.packs import evaluation_of
from eda_service.targets.files.resolve import is_ours

_ORIGINALS = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Embedded targets by their ids on the hub."""
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_LICENCE_OF_SHIPPED = "apache-2.0"
_TAGS = ("eda", "speculative-decoding", "eagle", "draft-model")


def licence_of(manifest: PackManifest, given: str | None) -> str:
    """Return the licence under which a pack is published.

    Raises:
        InputError: The given licence is no id; or none is given, and the package neither ships nor fetches the target.
    """
    if given is not None:
        if not _LICENCE.fullmatch(given):
            raise InputError(
                f"--license {given[:64]!r} is no id of a licence; write one like apache-2.0", param="license"
            )
        return given
    target = _target(manifest)
    if is_ours(str(target.get("model", ""))) and not target.get("adapter"):
        return _LICENCE_OF_SHIPPED
    raise InputError(
        f"under which licence {manifest.pack} may be used is for you to say, as its target "
        f"{_shown(target.get('model'))} has one; give --license apache-2.0 or another id of the hub's",
        param="license",
    )


def base_model_of(manifest: PackManifest, given: str | None) -> str | None:
    """Return the hub id of the target that a pack was made for; None if it is known only on this machine."""
    if given is not None:
        return given
    target = manifest.target
    named = [target.adapter, target.model] if target.adapter else [target.model]
    for each in named:
        if each is not None and each in _ORIGINALS:
            return _ORIGINALS[each]
        if each is not None and "/" in each and is_model_id(each):
            return each
    return None


def shared(manifest: PackManifest) -> PackManifest:
    """Remove names of this machine from a manifest: directories, and the other packs that were measured beside it."""
    config = {key: _without_paths(value) for key, value in manifest.config.items() if key != "track"}
    target = manifest.target
    names = {"model": _shown(target.model), "adapter": None if target.adapter is None else _shown(target.adapter)}
    changes: dict[str, Any] = {"config": config, "target": target.model_copy(update=names), "source": ""}
    return manifest.model_copy(update={**changes, "rivals": (), "unmeasured_rivals": {}, "fixed": None})


def card(manifest: PackManifest, *, repo: str, licence: str, base_model: str | None) -> str:
    """Write README.md of a pack's repository.

    Args:
        manifest: Manifest from `shared`.
        repo: Id on the hub, or name of a directory.
        licence: Licence id of the hub.
        base_model: Hub id of its target.
    """
    return "\n".join([*_front(manifest, licence, base_model), "", *_body(manifest, repo, base_model)]) + "\n"


def _front(manifest: PackManifest, licence: str, base_model: str | None) -> list[str]:
    datasets = [each for each in _sources(manifest) if "/" in each and is_model_id(each)]
    lines = ["---", f"license: {licence}", "library_name: eda-service"]
    if base_model is not None:
        lines += [f"base_model: {base_model}", "base_model_relation: adapter"]
    if datasets:
        lines += ["datasets:", *(f"- {each}" for each in datasets)]
    return [*lines, "tags:", *(f"- {each}" for each in _TAGS), "---"]


def _body(manifest: PackManifest, repo: str, base_model: str | None) -> list[str]:
    target, name = manifest.target, manifest.pack.partition("@")[0]
    tuned = f"`{target.model}`" + (f" with the adapter `{target.adapter}`" if target.adapter else "")
    made = time.strftime("%Y-%m-%d", time.gmtime(manifest.created_at))
    is_found = is_ours(target.model) or "/" in target.model  # otherwise a directory named it
    deploy = f"eda packs deploy {name}" + ("" if is_found else f" --model {base_model or 'MODEL'}")
    return [
        f"# {name}",
        "",
        "A private pack for speculative decoding: what was trained beside the frozen draft "
        f"`{manifest.base_draft}` so that it drafts for {tuned}. The target verifies every token, so the pack changes "
        "how fast answers come and not what they say.",
        "",
        "## Acceptance",
        "",
        *_numbers(manifest),
        "",
        "## Use",
        "",
        "```",
        f"eda packs pull {repo}",
        deploy,
        "```",
        "",
        "It fits the very target that it was made for, over the very draft beside which it was trained; both are "
        "compared by hash. `eda export` writes it for vLLM and SGLang.",
        "",
        "## How it was made",
        "",
        f"* Method: {manifest.method}; {manifest.num_trainable:,} of {manifest.num_parameters:,} parameters trained, "
        f"seed {manifest.seed}, {made}.",
        *(f"* Prompts: {_said(each)}." for each in _sources(manifest)),
        f"* Target weights: sha256 `{target.weights_sha256}`.",
        f"* Base draft: sha256 `{manifest.base_draft_sha256}`.",
        "* Settings, versions of libraries and hashes of the files are in `manifest.json`.",
    ]


def _numbers(manifest: PackManifest) -> list[str]:
    found = evaluation_of(manifest)
    if found is None:
        return ["It does not say what it measured."]
    rows = ["| T | base draft | with this pack | speedup |", "|---|---|---|---|"]
    config = AdaptConfig.model_validate(manifest.config)
    for temperature in config.evaluation.temperatures:
        lengths = [manifest.metrics.acceptance_length(draft, temperature) for draft in (BASE, ADAPTED)]
        speedup = manifest.metrics.speedup(ADAPTED, temperature)
        shown = ["" if length is None else f"{length:.2f}" for length in lengths]
        rows.append(f"| {temperature:g} | {shown[0]} | {shown[1]} | {'' if speedup is None else f'{speedup:.2f}x'} |")
    return [
        "Acceptance length (tokens a round, the target's own included), "
        f"{found.num_draft_tokens} drafted tokens a round, on {found.measured_on}:",
        "",
        *rows,
    ]


def _target(manifest: PackManifest) -> Mapping[str, Any]:
    found = manifest.config.get("target")
    return found if isinstance(found, dict) else {}


def _sources(manifest: PackManifest) -> list[str]:
    found = [manifest.config.get(name) for name in ("dataset", "eval_dataset")]
    return [str(each["source"]) for each in found if isinstance(each, dict) and "source" in each]


def _said(source: str) -> str:
    if source == "self":
        return "written by the target itself"
    return f"`{source}`" + ("" if is_model_id(source) and "/" in source else ", which is not published with it")


def _shown(value: Any) -> str:
    text = str(value)
    return text.rstrip("/").rsplit("/", 1)[-1] if text.startswith("/") else text


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_paths(each) for each in value]
    return _shown(value) if isinstance(value, str) else value
