"""Bodies of `/v1/pack-versions`: everything about one version, two of them side by side, and one that is gone."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from api.deployments.schemas import PackVersionBody


class ServingBody(BaseModel):
    """A deployment that serves a version, of those that the caller sees."""

    name: str
    pack_ref: str | None = Field(description="the pack as it was written")


class RivalBody(BaseModel):
    """Another pack that the version's job measured beside its own."""

    pack: str
    acceptance_length: float
    speedup: float | None


class PackVersionDetail(PackVersionBody):
    """One version with all its numbers, its settings, what it was made from, and where it serves."""

    pinned: bool = Field(description="by the caller: the pack's name alone means it, and no job's pack replaces it")
    champion: bool = Field(description="name@champion means it")
    metrics: dict[str, float] = Field(description="everything that its job measured, by name")
    rivals: list[RivalBody] = Field(description="packs that were measured beside it")
    unmeasured_rivals: dict[str, str] = Field(description="packs that could not be measured beside it, and why")
    fixed: dict[str, float] = Field(description="acceptance lengths on the fixed evaluation of its name, by pack")
    config: dict[str, Any] = Field(description="the settings of its job")
    seed: int | None
    num_trainable: int | None
    base_draft_sha256: str | None
    target_sha256: str | None = Field(description="of the weights of the target that it was made for")
    files: dict[str, str] = Field(description="sha256 of each file")
    library_versions: dict[str, str]
    deployments: list[ServingBody]


class ComparisonBody(BaseModel):
    """Two packs on the same prompts, as far as a measurement has both; else why there is none."""

    object: Literal["pack.comparison"] = "pack.comparison"
    pack: str
    other: str
    comparable: bool
    reason: str = Field(description="which measurement has both, or why none has")
    acceptance_length: float | None
    other_acceptance_length: float | None
    gain: float | None = Field(description="acceptance of the first over that of the other")
    speedup: float | None = Field(description="over decoding without a draft")
    other_speedup: float | None


class DeletedPackBody(BaseModel):
    """A version that is gone."""

    id: str
    object: Literal["pack.version"] = "pack.version"
    deleted: Literal[True] = True
