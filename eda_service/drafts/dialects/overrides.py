"""`--set FIELD=VALUE` of an import: fields of the draft's config that replace the values of its files. Imports no
torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from eda_service.drafts.draft_config import DraftConfig
from eda_service.errors import InputError
from eda_service.field_errors import field_error
from eda_service.field_names import unknown_field

PARAM = "set"
_DECIDED = ("kind", "vocab_size", "target_hidden_size")
"""Fields that the tensors and the target decide."""


def parse_overrides(overrides: Mapping[str, str], model: type[DraftConfig]) -> dict[str, Any]:
    """Parse the values, each to the type of its field.

    Args:
        overrides: Text by field name; JSON where the text is JSON.
        model: Config class that has the fields.

    Raises:
        InputError: The field does not exist, cannot be set, or does not take the value.
    """
    return {name: _value(name, text, model) for name, text in overrides.items()}


def _value(name: str, text: str, model: type[DraftConfig]) -> Any:
    info = model.model_fields.get(name)
    if info is None:
        raise InputError(unknown_field(model, (name,), name), param=f"{PARAM}.{name}")
    if name in _DECIDED:
        raise InputError(
            f"{name} cannot be set: the draft's tensors or its target decide it; leave it out", param=f"{PARAM}.{name}"
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    annotation: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        problem = field_error(error.errors(include_url=False)[0], name=name)
        raise InputError(f"--set {name}={text[:60]}: {problem}; {info.description}", param=f"{PARAM}.{name}") from error
