"""A draft's rotation as its `config.json` writes it, in the old or the new form. Imports no torch.

The keys are read as transformers 5 does, whose config classes the engines use: `rope_scaling` before `rope_parameters`,
the base inside either before `rope_theta` beside them, 10000 if it is absent. The target's values are never inherited.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import ValidationError

from eda_service.drafts.dialects.record import BaseTarget
from eda_service.drafts.dialects.refusal import refusal
from eda_service.drafts.dialects.settings import Fields, Settings, shown
from eda_service.drafts.draft_config import RopeScaling
from eda_service.field_errors import field_error

DEFAULT_THETA = 10_000.0
_SCALING, _PARAMETERS = "rope_scaling", "rope_parameters"
_TYPES = ("default", "linear", "llama3", "yarn")
_TYPE_KEYS = ("rope_type", "type")
_LAYER_KINDS = ("full_attention", "sliding_attention", "chunked_attention")
_SECTION = "mrope_section"
_SET = "--set rope_scaling='{...}' or null, if you know it"


def read_theta(settings: Settings, fields: Fields, target: BaseTarget) -> float:
    """Read the base of the rotation."""
    beside = settings.number("rope_theta")
    key, scaling = _scaling(settings)
    inside = scaling.get("rope_theta")
    if inside is not None:
        if isinstance(inside, bool) or not isinstance(inside, int | float) or not 0 < inside < math.inf:
            raise refusal(f"config.json: {key}.rope_theta is {shown(inside)}, a number above 0 is needed; correct it")
        if beside not in (None, float(inside)):
            fields.assume(
                "rope_theta",
                float(inside),
                f"{key} says it, rope_theta beside says {beside:g}; engines take the inner one",
            )
        return float(inside)
    if beside is None:
        beyond = "" if target.rope_theta is None else f", which is {target.rope_theta:g}"
        fields.assume(
            "rope_theta",
            DEFAULT_THETA,
            f"the config names none, and engines take 10000 then; the target's{beyond} is not inherited",
        )
        return DEFAULT_THETA
    return beside


def read_scaling(settings: Settings, fields: Fields, head_dim: int) -> RopeScaling | None:
    """Read how the rotation is scaled; None if it is not.

    Raises:
        DraftIncompatibleError: The type is unknown or lacks a number.
    """
    key, scaling = _scaling(settings)
    kind = _type(key, scaling)
    if scaling.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise refusal(
            f"config.json: {key}.partial_rotary_factor is {shown(scaling['partial_rotary_factor'])}, a rotation of "
            "whole heads can be computed; import a draft with one"
        )
    if _SECTION in scaling or kind == "mrope":
        kind = _text_part(key, kind, scaling, head_dim, fields)
    if kind not in _TYPES:
        raise refusal(
            f"config.json: {key} has type {shown(kind)}; {', '.join(_TYPES)} can be computed: import a draft with one "
            f"of them, or {_SET}"
        )
    if kind == "default":
        return None
    values = {name: scaling.get(name) for name in RopeScaling.model_fields if scaling.get(name) is not None}
    if kind == "linear":
        values = {name: values[name] for name in ("factor",) if name in values}
    else:
        values |= _positions(settings, fields, key, scaling)
    try:
        return RopeScaling.model_validate({**values, "rope_type": kind})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "type"
        raise refusal(f"config.json: {field_error(first, name=f'{key}.{where}')}; correct it, or {_SET}") from error


def _scaling(settings: Settings) -> tuple[str, dict[str, Any]]:
    old_key, old = settings.object(_SCALING)
    new_key, new = settings.object(_PARAMETERS)
    for key, value in ((old_key, old), (new_key, new)):
        kinds = [name for name in _LAYER_KINDS if name in value]
        if kinds:
            raise refusal(
                f"config.json: {key} has a rotation for each kind of layer ({', '.join(kinds)}), one is needed; leave "
                "the draft's own"
            )
    if not old or not new:
        return (old_key, old) if old else (new_key, new)
    if _without_theta(old) != _without_theta(new):
        raise refusal(
            f"config.json: {old_key} is {shown(old)} and {new_key} is {shown(new)}; leave the one that the draft was "
            f"trained with, or {_SET}"
        )
    return old_key, {**new, **old}


def _without_theta(scaling: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in scaling.items() if name not in ("rope_theta", *_TYPE_KEYS)}
    return {**rest, "rope_type": next((scaling[key] for key in _TYPE_KEYS if key in scaling), "default")}


def _type(key: str, scaling: dict[str, Any]) -> Any:
    new, old = (scaling.get(name) for name in _TYPE_KEYS)
    if new is not None and old is not None and new != old:
        if (new, old) == ("default", "mrope"):
            return "mrope"
        raise refusal(f"config.json: {key} has rope_type {shown(new)} and type {shown(old)}; leave the right one")
    return new or old or "default"


def _text_part(key: str, kind: Any, scaling: dict[str, Any], head_dim: int, fields: Fields) -> str:
    """Treat the type mrope as plain rotation, which it is for text: a text token has the same number in
    each section.
    """
    sections = scaling.get(_SECTION)
    if not isinstance(sections, list) or not all(type(each) is int for each in sections):
        raise refusal(f"config.json: {key}.{_SECTION} is {shown(sections)}, a list of widths is needed; correct it")
    if kind not in ("mrope", "default") or 2 * sum(sections) != head_dim:
        raise refusal(
            f"config.json: {key} is of type {shown(kind)} with {_SECTION} {shown(sections)}; sections that fill half "
            f"of head_dim ({head_dim}) over an unstretched rotation can be computed: import a draft with them"
        )
    fields.assume(
        "rope_scaling", None, f"{key} is mrope, which turns text as the plain rotation does; images are not drafted for"
    )
    return "default"


def _positions(settings: Settings, fields: Fields, key: str, scaling: dict[str, Any]) -> dict[str, Any]:
    """Read the number of positions before scaling, and for yarn the factor that follows from it if it is not given."""
    inside = scaling.get("original_max_position_embeddings")
    beside = settings.whole("original_max_position_embeddings")
    all_positions = settings.whole("max_position_embeddings")
    original = beside or inside
    if beside is not None and inside not in (None, beside):
        fields.assume(
            "rope_scaling.original_max_position_embeddings",
            beside,
            f"beside {key} stands {beside}, inside {inside}; engines take the outer one",
        )
    if original is None and all_positions is not None:
        original = all_positions
        fields.assume(
            "rope_scaling.original_max_position_embeddings",
            original,
            f"{key} does not say it, and engines take max_position_embeddings",
        )
    found = {} if original is None else {"original_max_position_embeddings": original}
    if scaling.get("factor") is None and "factor" in scaling and isinstance(original, int) and all_positions:
        found["factor"] = all_positions / original
        fields.assume(
            "rope_scaling.factor",
            found["factor"],
            f"{key}.factor is null, and engines take max_position_embeddings over the original ones",
        )
    return found
