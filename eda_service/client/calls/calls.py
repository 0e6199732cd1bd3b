"""The operations of the jobs API as values: what is sent and how the answer is read. Nothing here touches a socket."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Generic, Literal, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from eda_service.client.answers.answers import Adaptation, Estimate, JobEvent, LogChunk, Page
from eda_service.client.answers.sample_answers import SamplePage
from eda_service.client.errors import UnexpectedAnswerError, api_error, no_text
from eda_service.client.retry import retry_after_s, should_retry
from eda_service.errors import InputError
from eda_service.field_errors import first_error

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)

_ROOT = "/v1/adaptations"
_READ_THROUGH_S = 600.0  # a file of 2 GiB is read through in minutes before its sender is answered
_JOB_ID = re.compile(r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")
_HEADER_VALUE = re.compile(r"^[!-~]{1,255}$")


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and the parser of its answer.

    Args:
        method: HTTP method.
        path: Path under the service's URL.
        parse: Makes the answer's JSON into a value, or its text where `is_text`.
        params: Query.
        json: Body.
        headers: Headers of this call alone.
        repeatable: Sent twice, it does no more than sent once.
        is_text: The answer is no JSON.
        is_binary: Nor is it text.
        form: Fields of a form that goes with a file.
        file: Its name, and what it is read from, anew each time that the call is sent.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    parse: Callable[[Any], T]
    params: Mapping[str, str] = field(default_factory=dict)
    json: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    is_text: bool = False
    is_binary: bool = False
    form: Mapping[str, str] | None = None
    file: tuple[str, BinaryIO] | None = None

    def request(self, http: httpx.Client | httpx.AsyncClient, **options: Any) -> httpx.Request:
        """The request as httpx sends it.

        Raises:
            InputError: A text in it cannot be sent.
        """
        if self.file is not None:
            self.file[1].seek(0)
            most = http.timeout
            timeout = httpx.Timeout(
                connect=most.connect, write=most.write, pool=most.pool, read=max(most.read or 0.0, _READ_THROUGH_S)
            )
            options = {"timeout": timeout, "data": dict(self.form or {}), "files": {"file": self.file}, **options}
        options |= {"params": dict(self.params), "json": self.json, "headers": dict(self.headers)}
        try:
            return http.build_request(self.method, self.path, **options)
        except UnicodeEncodeError as error:
            raise no_text(error) from error

    def read(self, response: httpx.Response) -> T:
        """The answer's value.

        Raises:
            ApiError: The service answered with an error.
            UnexpectedAnswerError: The answer is not what this version of the client expects.
        """
        if not response.is_success:
            raise api_error(
                response,
                retryable=should_retry(response.status_code, response.headers),
                retry_after_s=retry_after_s(response.headers, time.time()),
            )
        try:
            if self.is_binary:
                return self.parse(response.content)
            return self.parse(response.text if self.is_text else response.json())
        except ValidationError as error:
            what = first_error(error).message
        except (ValueError, KeyError, TypeError) as error:
            what = f"{type(error).__name__}: {error}"[:200]
        raise UnexpectedAnswerError(
            f"{self.method} {response.url} answered {response.status_code} with something else than this service does "
            f"({what}); is this the service's URL, and is the service of this version?"
        )


def create(body: Mapping[str, Any], idempotency_key: str | None) -> Call[Adaptation]:
    """Queue a job. Without a key the call makes one of its own, so that repeating it never makes two jobs."""
    if body.get("dry_run"):
        raise InputError("create() queues a job; ask estimate() what it would need", param="dry_run")
    return Call("POST", _ROOT, one(Adaptation), json=body, headers=idempotent(idempotency_key), repeatable=True)


def estimate(body: Mapping[str, Any]) -> Call[Estimate]:
    """What a job would need; nothing is stored, so the call may be repeated."""
    return Call("POST", f"{_ROOT}/estimate", one(Estimate), json=body, repeatable=True)


def get(job_id: str) -> Call[Adaptation]:
    """One job."""
    return Call("GET", _job(job_id), one(Adaptation), repeatable=True)


def page(
    *, limit: int, after: str | None, status: str | None, metadata: Mapping[str, str] | None
) -> Call[Page[Adaptation]]:
    """Jobs, newest first."""
    labels = {f"metadata[{key}]": value for key, value in (metadata or {}).items()}
    params = given(limit=limit, after=after, status=status) | labels
    return Call("GET", _ROOT, page_of(Adaptation), params=params, repeatable=True)


def cancel(job_id: str) -> Call[Adaptation]:
    """Stop a job."""
    return Call("POST", f"{_job(job_id)}/cancel", one(Adaptation))


def retry(job_id: str) -> Call[Adaptation]:
    """Queue a failed or cancelled job again."""
    return Call("POST", f"{_job(job_id)}/retry", one(Adaptation))


def set_priority(job_id: str, priority: int) -> Call[Adaptation]:
    """Move a queued job up or down."""
    return Call("POST", _job(job_id), one(Adaptation), json={"priority": priority})


def events(job_id: str, *, after: str | None, limit: int = 100) -> Call[Page[JobEvent]]:
    """Events, oldest first."""
    params = given(limit=limit, after=after)
    return Call("GET", f"{_job(job_id)}/events", page_of(JobEvent), params=params, repeatable=True)


def event_stream(job_id: str, *, after: str | None) -> Call[None]:
    """Events as they happen; the answer is read by `stream.EventStream`, not by `parse`."""
    headers = {"accept": "text/event-stream"} | ({"last-event-id": after} if after else {})
    return Call("GET", f"{_job(job_id)}/events", lambda _: None, headers=headers, repeatable=True)


def logs(job_id: str, *, stage: str | None, tail: int | None = None, after: int | None = None) -> Call[LogChunk]:
    """The last lines of a log, or with `after` what came since that byte offset."""
    params = given(stage=stage, tail=tail, after=after)
    return Call("GET", f"{_job(job_id)}/logs", one(LogChunk), params=params, repeatable=True)


def samples(job_id: str, *, kept: bool | None, after: str | None, limit: int) -> Call[SamplePage]:
    """What selection kept and dropped, the most valuable first."""
    params = given(kept=None if kept is None else str(kept).lower(), after=after, limit=limit)
    return Call("GET", f"{_job(job_id)}/samples", one(SamplePage), params=params, repeatable=True)


def report(job_id: str) -> Call[dict[str, Any]]:
    """The evaluation record."""
    return Call("GET", f"{_job(job_id)}/report", dict, repeatable=True)


def report_page(job_id: str) -> Call[str]:
    """The report as one HTML file."""
    return Call("GET", f"{_job(job_id)}/report.html", str, repeatable=True, is_text=True)


def health() -> Call[dict[str, Any]]:
    """State of the service's parts; once there are keys, `status` alone for who cannot read jobs."""
    return Call("GET", "/health", dict, repeatable=True)


def metrics() -> Call[str]:
    """What Prometheus scrapes."""
    return Call("GET", "/metrics", str, repeatable=True, is_text=True)


def models() -> Call[list[str]]:
    """Names at the endpoint."""
    return Call("GET", "/v1/models", lambda answer: [str(item["id"]) for item in answer["data"]], repeatable=True)


def idempotent(idempotency_key: str | None) -> dict[str, str]:
    """The header of a call that makes a job; without a key one of its own, so that repeating it never makes two."""
    key = f"client-{uuid.uuid4().hex}" if idempotency_key is None else header_value(idempotency_key, "idempotency_key")
    return {"idempotency-key": key}


def job_path(root: str, job_id: str) -> str:
    """Path of one job under a resource.

    Raises:
        InputError: It is no job id.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise InputError(f"{job_id[:64]!r} is no job id; `eda jobs ls` shows them", param="id")
    return f"{root}/{job_id}"


def header_value(text: str, param: str) -> str:
    """Return `text` when it can stand in a header.

    Raises:
        InputError: It cannot; the message does not repeat it, as it may be a secret.
    """
    if not _HEADER_VALUE.fullmatch(text):
        raise InputError(f"{param} must be 1 to 255 printable ASCII characters without spaces", param=param)
    return text


def _job(job_id: str) -> str:
    return job_path(_ROOT, job_id)


def given(**params: str | int | None) -> dict[str, str]:
    """Those that are not None, as a query."""
    return {key: str(value) for key, value in params.items() if value is not None}


def one(model: type[ModelT]) -> Callable[[Any], ModelT]:
    """A parser of one object."""
    return model.model_validate


def page_of(model: type[ModelT]) -> Callable[[Any], Page[ModelT]]:
    """A parser of one page of a list."""

    def parse(answer: Any) -> Page[ModelT]:
        data = tuple(model.model_validate(item) for item in answer["data"])
        return Page(data, bool(answer["has_more"]), answer.get("first_id"), answer.get("last_id"))

    return parse
