"""Bodies of `/v1/files`, in OpenAI's shape, with the hash and the number of prompts beside it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from eda_service.jobstore import StoredFile


class FileBody(BaseModel):
    """An uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Literal["fine-tune"]
    status: Literal["processed"] = Field("processed", description="it was read through when it came, or is not there")
    expires_at: int | None = Field(None, description="it stays until it is deleted")
    status_details: str | None = None
    sha256: str
    num_prompts: int = Field(description="different ones")
    num_skipped: int = Field(description="rows that hold no prompt")

    @classmethod
    def of(cls, file: StoredFile) -> FileBody:
        """The wire form of a stored file."""
        return cls(
            bytes=file.size_bytes,
            purpose="fine-tune",
            **file.model_dump(include={"id", "created_at", "filename", "sha256", "num_prompts", "num_skipped"}),
        )


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedFileBody(BaseModel):
    """What is left of a file."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


UPLOAD_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSON lines or a JSON array"},
                        "purpose": {"type": "string", "enum": ["fine-tune"]},
                    },
                }
            }
        },
    }
}
"""The form of an upload, for the OpenAPI document: the body is read as it arrives and not by FastAPI."""
