"""What every config has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from eda_service.names import NAME_PATTERN

Name = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]
"""What is served or published under a name of ours, by the rule of `eda_service.names`."""


class Config(BaseModel):
    """Base of all configs: immutable, and an unknown field is an error rather than a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid")
