"""The draft that pretraining makes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from eda_service.config.base import Config


class DraftKind(StrEnum):
    """Kinds of drafts that pretraining makes."""

    EAGLE1 = "eagle1"
    EAGLE3 = "eagle3"


class DraftSpec(Config):
    """The draft that pretraining makes; an adaptation ignores it and uses its base draft."""

    kind: DraftKind = Field(DraftKind.EAGLE1, description="class of the draft")
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="kind eagle3: the target's states that it reads, i after i layers; None: 2, N//2 and N-3 of N",
    )

    @model_validator(mode="after")
    def _check_layers(self) -> DraftSpec:
        if self.layers is not None and self.kind is not DraftKind.EAGLE3:
            raise ValueError(f"draft.layers are for kind eagle3, and draft.kind is {self.kind}; leave them out")
        return self
