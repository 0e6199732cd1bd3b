"""A request becomes an `AdaptConfig`: preset, then the request's own fields, then `config`, later ones winning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from api.errors import config_error
from api.jobs.schemas import AdaptationRequest
from eda_service.config.job import AdaptConfig
from eda_service.config.overrides import at_path, merge
from eda_service.config.presets import on_preset, preset
from eda_service.config.removed import ASKED
from eda_service.errors import InputError

# Where each short name of `method.eda` lives in AdaptConfig.
_HYPERPARAMETERS: dict[str, str] = {
    "keep_fraction": "selection.keep_fraction",
    "quantile": "selection.quantile",
    "pca_dim": "selection.pca_dim",
    "selector": "selection.method",
    "private_width_fraction": "train.private_width_fraction",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "learning_rate": "train.learning_rate",
    "unroll_steps": "train.loss.unroll_steps",
}
_DEPLOY = {"deploy": "enabled", "min_gain": "min_gain"}
_COPIED = ("base_draft", "served_name", "seed", "dataset", "eval_dataset", "evaluation")


def to_config(request: AdaptationRequest) -> AdaptConfig:
    """Build the job's config.

    Raises:
        InputError: No target, an unknown preset, or a field out of its bounds.
    """
    below = preset(request.preset) if request.preset is not None else {}
    merged = on_preset(below, merge(_fields(request), request.config))
    if not isinstance(merged.get("target"), Mapping) or "model" not in merged["target"]:
        raise InputError("the request names no target; set `model` to an id, a name or a directory", param="model")
    try:
        return AdaptConfig.model_validate(merged, context=ASKED)
    except ValidationError as error:
        raise config_error(error, AdaptConfig) from error


def explicit_numbers(request: AdaptationRequest) -> frozenset[str]:
    """Which numbers of prompts the caller has given, rather than a preset or a default."""
    found = set()
    for part in ("dataset", "eval_dataset", "evaluation"):
        own, overrides = getattr(request, part), request.config.get(part)
        given = set() if own is None else own.model_fields_set
        if "num_prompts" in given or (isinstance(overrides, Mapping) and "num_prompts" in overrides):
            found.add(f"{part}.num_prompts")
    return frozenset(found)


def _fields(request: AdaptationRequest) -> dict[str, Any]:
    given = request.model_dump(mode="json", exclude_unset=True)
    layer: dict[str, Any] = {name: given[name] for name in _COPIED if given.get(name) is not None}
    if "eval_dataset" in given:  # null says: held out of the dataset, whatever the preset has
        layer["eval_dataset"] = given["eval_dataset"]
    target = {name: given[name] for name in ("model", "revision", "adapter") if given.get(name) is not None}
    if target:
        layer["target"] = target
    deploy = {name: given[key] for key, name in _DEPLOY.items() if given.get(key) is not None}
    if deploy:
        layer["deploy"] = deploy
    method = given.get("method", {})
    if "type" in method:
        layer["train"] = {"method": method["type"]}
    for name, value in method.get("eda", {}).items():
        if value is not None:
            layer = merge(layer, at_path(_HYPERPARAMETERS[name], value))
    return layer
