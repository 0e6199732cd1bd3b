"""The OpenAPI document: what FastAPI finds, with the endpoint's bodies and our error object put in.

The gateway passes bodies on unread and errors all have one shape, so FastAPI knows of neither.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.endpoint.protocol.requests import ChatRequest, CompletionRequest

_REF = "#/components/schemas/{model}"
_ENDPOINT: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
# Who makes an object: the paths under it take the field of the answer as that parameter.
_MAKERS = {
    "/v1/adaptations": ("job_id", "id"),
    "/v1/fine_tuning/jobs": ("job_id", "id"),
    "/v1/deployments": ("name", "name"),
    "/v1/measurements": ("job_id", "id"),
    "/v1/exports": ("job_id", "id"),
}
_FASTAPI_ERRORS = ("HTTPValidationError", "ValidationError")


class ErrorDetail(BaseModel):
    """Why a request was refused or failed."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's error object: the body of every answer that is not 2xx."""

    error: ErrorDetail


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of an application."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        _add_schemas(document)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = _json("Refused or failed", ErrorBody)
                if path in _ENDPOINT:
                    operation["requestBody"] = {"required": True, **_content(_ENDPOINT[path])}
        _add_links(document["paths"])
        app.openapi_schema = document
    return app.openapi_schema


def _add_schemas(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in _FASTAPI_ERRORS:
        schemas.pop(name, None)
    models: list[type[BaseModel]] = [*_ENDPOINT.values(), ErrorBody]
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
    schemas.update(found["$defs"])


def _add_links(paths: dict[str, Any]) -> None:
    """What can be done with an object, as links of the answers that made it."""
    for maker, (parameter, field) in _MAKERS.items():
        links = {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {parameter: f"$response.body#/{field}"},
            }
            for path, operations in paths.items()
            if path.startswith(f"{maker}/{{{parameter}}}") and path.count("{") == 1
            for operation in operations.values()
        }
        for status, response in paths[maker]["post"]["responses"].items():
            if status.startswith("2"):
                response["links"] = links


def _content(model: type[BaseModel]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}}


def _json(description: str, model: type[BaseModel]) -> dict[str, Any]:
    return {"description": description, **_content(model)}
