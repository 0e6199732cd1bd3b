"""A thin, typed, synchronous client of the jobs API. Imports neither torch nor ray.

Answers are read tolerantly: unknown fields are ignored, so an older client works with a newer service.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import BaseModel, ConfigDict

from eda_service.errors import EdaError

TERMINAL = frozenset({"succeeded", "failed", "cancelled"})
DEFAULT_URL = "http://127.0.0.1:8700"


class ServiceUnreachableError(EdaError):
    """Nothing answers at the service's URL."""

    code = "service_unreachable"
    retryable = True


class ApiError(EdaError):
    """The service answered with an error.

    Args:
        message: The service's message.
        param: The field at fault.
        status: HTTP status.
        code: The service's stable code.
        request_id: What the service's log calls the request.
    """

    def __init__(self, message: str, *, param: str | None, status: int, code: str, request_id: str | None) -> None:
        super().__init__(message, param=param)
        self.status, self.code, self.request_id = status, code, request_id


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Progress(_Answer):
    """Progress of a job's current stage."""

    percent: float
    step: int
    total_steps: int
    eta_s: int | None = None
    updated_at: int = 0


class JobError(_Answer):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None
    retryable: bool = False


class Adaptation(_Answer):
    """One job."""

    id: str
    status: str
    stage: str | None = None
    progress: Progress | None = None
    model: str
    adapter: str | None = None
    base_draft: str
    served_name: str
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None
    attempt: int = 0
    max_attempts: int = 0
    priority: int = 50
    metadata: dict[str, str] = {}
    result_pack: str | None = None
    error: JobError | None = None
    config: dict[str, Any] = {}

    @property
    def is_terminal(self) -> bool:
        """Whether the job will not change any more by itself."""
        return self.status in TERMINAL


class JobEvent(_Answer):
    """Something that happened to a job."""

    id: str
    created_at: int
    level: str
    type: str
    message: str
    stage: str | None = None


class Client:
    """Calls one service.

    Args:
        base_url: e.g. `http://127.0.0.1:8700`.
        timeout_s: Deadline of one request.
    """

    def __init__(self, base_url: str = DEFAULT_URL, *, timeout_s: float = 30.0) -> None:
        self.base_url = base_url
        self._http = httpx.Client(base_url=base_url, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def create(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Adaptation:
        """Queue an adaptation; `body` is that of `POST /v1/adaptations`.

        Raises:
            ApiError: The service refuses it.
            ServiceUnreachableError: Nothing answers.
        """
        headers = {"idempotency-key": idempotency_key} if idempotency_key else None
        return Adaptation.model_validate(self._call("POST", "/v1/adaptations", json=dict(body), headers=headers))

    def get(self, job_id: str) -> Adaptation:
        """One job."""
        return Adaptation.model_validate(self._call("GET", f"/v1/adaptations/{job_id}"))

    def page(self, *, limit: int = 20, after: str | None = None, status: str | None = None) -> list[Adaptation]:
        """Jobs, newest first."""
        params = {key: value for key, value in (("limit", limit), ("after", after), ("status", status)) if value}
        answer = self._call("GET", "/v1/adaptations", params=params)
        return [Adaptation.model_validate(item) for item in answer["data"]]

    def cancel(self, job_id: str) -> Adaptation:
        """Stop a job."""
        return Adaptation.model_validate(self._call("POST", f"/v1/adaptations/{job_id}/cancel"))

    def retry(self, job_id: str) -> Adaptation:
        """Queue a failed or cancelled job again."""
        return Adaptation.model_validate(self._call("POST", f"/v1/adaptations/{job_id}/retry"))

    def events(self, job_id: str, *, after: str | None = None) -> list[JobEvent]:
        """Every event of a job after the given one, oldest first."""
        found: list[JobEvent] = []
        while True:
            params = {"limit": "100", **({"after": after} if after else {})}
            answer = self._call("GET", f"/v1/adaptations/{job_id}/events", params=params)
            found.extend(JobEvent.model_validate(item) for item in answer["data"])
            if not answer["has_more"]:
                return found
            after = answer["last_id"]

    def logs(self, job_id: str, *, stage: str | None = None, tail: int = 200) -> list[str]:
        """The last lines of a stage's log."""
        params = {"tail": str(tail), **({"stage": stage} if stage else {})}
        lines: list[str] = self._call("GET", f"/v1/adaptations/{job_id}/logs", params=params)["lines"]
        return lines

    def report(self, job_id: str) -> dict[str, Any]:
        """The evaluation record of a job."""
        return self._call("GET", f"/v1/adaptations/{job_id}/report")

    def health(self) -> dict[str, Any]:
        """State of the service's parts."""
        return self._call("GET", "/health")

    def models(self) -> list[str]:
        """Names that the serving endpoint offers."""
        return [str(item["id"]) for item in self._call("GET", "/v1/models")["data"]]

    def watch(self, job_id: str, *, interval_s: float = 0.5) -> Iterator[Adaptation]:
        """The job again and again until it is terminal; that state is the last item.

        A service that restarts meanwhile is waited for, up to a minute.
        """
        patience_s, away_since = 60.0, None
        while True:
            try:
                job = self.get(job_id)
            except ServiceUnreachableError:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > patience_s:
                    raise
            else:
                away_since = None
                yield job
                if job.is_terminal:
                    return
            time.sleep(interval_s)

    def wait(self, job_id: str, *, timeout_s: float | None = None, interval_s: float = 0.5) -> Adaptation:
        """Block until the job is terminal.

        Raises:
            TimeoutError: It is not, after `timeout_s`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        last: Adaptation | None = None
        for job in self.watch(job_id, interval_s=interval_s):
            last = job
            if not job.is_terminal and deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} is still {job.status} after {timeout_s:.0f} s")
        assert last is not None
        return last

    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **kwargs)
        except httpx.HTTPError as error:
            raise ServiceUnreachableError(
                f"nothing answers at {self.base_url} ({type(error).__name__}); start the service with `eda up`"
            ) from error
        if response.is_success:
            value: dict[str, Any] = response.json()
            return value
        raise _api_error(response)


def _api_error(response: httpx.Response) -> ApiError:
    try:
        body = dict(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        body = {"message": f"HTTP {response.status_code} without the usual error body"}
    return ApiError(
        str(body.get("message")),
        param=body.get("param"),
        status=response.status_code,
        code=str(body.get("code") or "internal"),
        request_id=response.headers.get("x-request-id"),
    )
