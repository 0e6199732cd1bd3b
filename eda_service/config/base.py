"""The base class of all configs and the type of names."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from eda_service.names import NAME_PATTERN

Name = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]
"""Name of a pack, draft or deployment, valid by `eda_service.names`."""


class Config(BaseModel):
    """Base of all configs: immutable, and an unknown field is an error rather than a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid")
