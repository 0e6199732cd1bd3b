"""Bodies of exports: packs as other engines load them, made by a job and then downloaded."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from api.jobs.schemas import JobRequest
from api.jobs.schemas_tasks import JobBody
from eda_service.config.export_forms import Destination, ExportForm
from eda_service.config.tasks import MAX_CHECK_PROMPTS, DialectName
from eda_service.records import Stage

PackName = Annotated[str, Field(min_length=1, max_length=128)]


class ExportRequest(JobRequest):
    """Body of `POST /v1/exports`."""

    STAGES: ClassVar[tuple[Stage, ...]] = (Stage.EXPORT,)

    pack: PackName = Field(description="name@3, name@latest or name@champion; a name: the pinned or newest")
    to: Destination = Field(description="who will load it; hf: a hub")
    form: ExportForm = Field(
        ExportForm.PLUGIN, description="plugin keeps the gate and needs this package there, dense is for any engine"
    )
    dialect: DialectName | None = Field(
        None, description="how an EAGLE-3 draft is written; default: as it came, or one that the engine reads"
    )
    num_prompts: int = Field(
        64, ge=8, le=MAX_CHECK_PROMPTS, description="general prompts on which a dense form is calibrated and measured"
    )
    num_draft_tokens: int = Field(3, ge=1, le=16, description="K of the chains")


class ExportOfferBody(BaseModel):
    """One form that a pack can be exported in, or why it cannot."""

    to: Destination
    form: ExportForm
    needs_answers: bool = Field(description="the target answers prompts first, which takes minutes for a large one")
    dialects: list[str] = Field(description="that can be asked for; empty: it is written in one way")
    refused: str | None = Field(description="why it is not made; null: it is")


class ExportOfferList(BaseModel):
    """Everything that a version of a pack can be exported to."""

    object: Literal["list"] = "list"
    pack: str = Field(description="name@version")
    data: list[ExportOfferBody]


class ExportedFileBody(BaseModel):
    """One file of an export."""

    path: str
    size_bytes: int
    sha256: str


class ExportBody(JobBody):
    """An export: its job, and what came out once it has succeeded."""

    pack: str
    to: Destination
    form: ExportForm
    dialect: str | None
    serve_command: str | None = Field(description="for a shell in the directory where the archive was unpacked")
    needs: list[str] = Field(description="what has to be so where the command is typed")
    acceptance_length: float | None = Field(description="of the pack, where the form changes it")
    exported_acceptance_length: float | None = Field(description="of the export, on the same answers")
    files: list[ExportedFileBody] = Field(description="in the archive; empty: not made yet, or removed again")
    available_until: int | None = Field(description="when the archive is removed, seconds since the epoch")
