"""Every HTTP error has OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, and none echoes the body."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnectionError
from starlette.exceptions import HTTPException

from api.auth import InsufficientScopeError, InvalidKeyError
from eda_service.errors import (
    ConflictError,
    DeadlineExceededError,
    EdaError,
    InputError,
    InsufficientStorageError,
    NotFoundError,
    OverloadedError,
    QuotaExceededError,
    ResourceError,
)
from eda_service.field_errors import as_number, field_error
from eda_service.field_unions import told_once

logger = logging.getLogger(__name__)

DATABASE_ERRORS = (OperationalError, NoFreeConnectionError)
"""What SQLAlchemy raises while a database is away, full, or busy for longer than is waited for."""
MAX_ENTRIES = 10
MAX_ENTRY_CHARACTERS = 200
_NAME = re.compile(r"^[A-Za-z_][\w.-]{0,63}$")


class DatabaseUnavailableError(ResourceError):
    """The job store does not take requests now."""

    code = "database_unavailable"
    retryable = True


class FileTooLargeError(InputError):
    """An uploaded file has more bytes than the service takes."""

    code = "file_too_large"


# First match wins, so subclasses stand before their parents.
_STATUS: tuple[tuple[type[EdaError], int], ...] = (
    (InvalidKeyError, 401),
    (InsufficientScopeError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (FileTooLargeError, 413),
    (InputError, 400),
    (OverloadedError, 429),
    (QuotaExceededError, 429),
    (InsufficientStorageError, 507),
    (ResourceError, 503),
    (DeadlineExceededError, 504),
    (EdaError, 500),
)
_ERROR_HEADERS = {
    401: {"www-authenticate": "Bearer"},
    409: {"x-should-retry": "false"},
    429: {"retry-after": "1"},
    503: {"retry-after": "5"},
    504: {"x-should-retry": "false"},
}
_TYPES = {429: "rate_limit_error"}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 415: "unsupported_media_type"}


def error_response(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """One error in the one shape."""
    body = error_body(status, message, param=param, code=code)
    return JSONResponse(body, status_code=status, headers=headers)


def error_body(status: int, message: str, *, param: str | None, code: str | None) -> dict[str, Any]:
    """OpenAI's error object."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of(error: EdaError) -> int:
    """HTTP status of an error of ours."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


_WRITTEN = (("query",), ("path",))
"""Where numbers come as texts."""


def validation_message(
    errors: Sequence[Any], *, skip: int = 0, model: type[BaseModel] | None = None
) -> tuple[str, str | None]:
    """Pydantic errors as one bounded message and the first field at fault.

    Args:
        errors: `ValidationError.errors()`; of `input` only what `field_error` repeats.
        skip: Leading parts of `loc` to leave out (`body`).
        model: What was validated; of a field that it does not have, the one that was meant is named.

    Returns:
        The message, and the dotted name of the first field or None.
    """
    entries: list[str] = []
    found = told_once(errors, model, skip=skip)
    for error in found[:MAX_ENTRIES]:
        name = field_name(error["loc"][skip:])
        given = as_number(error.get("input")) if error["loc"][:1] in _WRITTEN else error.get("input")
        text = field_error({**error, "input": given}, name=name, loc=error["loc"][skip:], model=model)
        entries.append(text[:MAX_ENTRY_CHARACTERS])
    first = field_name(found[0]["loc"][skip:]) if found else None
    return ". ".join(entries), first or None  # an entry has semicolons of its own


def config_error(error: ValidationError, model: type[BaseModel] | None = None) -> InputError:
    """A config that does not validate, as an error of ours.

    Args:
        error: What pydantic found.
        model: What was validated, so that a field that it does not have can be told from one that it has.
    """
    message, param = validation_message(error.errors(include_url=False), model=model)
    return InputError(message, param=param)


def field_name(loc: Sequence[Any]) -> str:
    """A field's dotted name, fit to be shown."""
    # A name the caller invented is part of the body: it is repeated only when it looks like a field's name.
    return ".".join(str(part) if isinstance(part, int) or _NAME.fullmatch(str(part)) else "?" for part in loc)


def response_of(error: EdaError) -> JSONResponse:
    """An error of ours in the one shape, with the headers of its status."""
    status = status_of(error)
    headers = _ERROR_HEADERS.get(status)
    if status == 503 and not error.retryable:
        headers = {"x-should-retry": "false"}
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is not None:
        headers = {**(headers or {}), "retry-after": str(wait_s)}
    return error_response(status, error.message, param=error.param, code=error.code, headers=headers)


def database_error(error: Exception) -> EdaError:
    """One of `DATABASE_ERRORS` as an error of ours; its own text, without the statement, goes to the log alone.

    Args:
        error: The database does not take the request now: its disk is full, or it is away or busy for too long.
    """
    logger.error("the database: %s", str(error).splitlines()[0][:MAX_ENTRY_CHARACTERS])
    if "disk is full" in str(error):
        return InsufficientStorageError("the disk of the service's database is full; free space there and try again")
    return DatabaseUnavailableError("the database does not answer; try again")


async def _on_eda_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, EdaError)
    return response_of(error)


async def _on_database_error(_request: Request, error: Exception) -> JSONResponse:
    return response_of(database_error(error))


def _body_model(request: Request) -> type[BaseModel] | None:
    """The model of a route's body, if it has one."""
    field = getattr(request.scope.get("route"), "body_field", None)
    annotation = getattr(getattr(field, "field_info", None), "annotation", None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if found and found[0]["type"] == "json_invalid":
        place, reason = found[0]["loc"][-1], found[0].get("ctx", {}).get("error")
        said = f"the body is not valid JSON: {reason} at character {place}" if reason else "the body is not valid JSON"
        return error_response(400, said, code="invalid_json")
    in_body = bool(found) and found[0]["loc"][:1] == ("body",)
    message, param = validation_message(found, skip=1, model=_body_model(request) if in_body else None)
    return error_response(400, message, param=param, code="invalid_request")


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    said = str(error.detail)
    if said == HTTPStatus.NOT_FOUND.phrase:
        said = "there is no such path; /docs has all"
    elif said == HTTPStatus.METHOD_NOT_ALLOWED.phrase:
        allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow")
        said = f"{request.method[:16]} is not allowed here{f'; use {allowed}' if allowed else ''}"
    headers = dict(error.headers) if error.headers else None
    code = _CODES.get(error.status_code, "invalid_request" if error.status_code < 500 else "internal")
    return error_response(error.status_code, said, code=code, headers=headers)


def install(app: FastAPI) -> None:
    """Register the handlers; what none of them takes becomes a 500 in `api.middleware`."""
    app.add_exception_handler(EdaError, _on_eda_error)
    for kind in DATABASE_ERRORS:
        app.add_exception_handler(kind, _on_database_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
