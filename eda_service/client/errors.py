"""What a call can end in besides an answer."""

from __future__ import annotations

from functools import partial

import httpx

from eda_service.errors import EdaError, InputError


class ServiceUnreachableError(EdaError):
    """Nothing answers at the service's URL."""

    code = "service_unreachable"
    retryable = True


class UnexpectedAnswerError(EdaError):
    """Something answered, but not what this version of the client can read."""

    code = "unexpected_answer"


class ApiError(EdaError):
    """The service answered with an error.

    Args:
        message: The service's message.
        param: The field at fault.
        status: HTTP status.
        code: The service's stable code.
        request_id: What the service's log calls the request.
        retryable: Whether the same call may succeed a little later.
        retry_after_s: How much later, when the service says so.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None,
        status: int,
        code: str,
        request_id: str | None,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, param=param)
        self.status, self.code, self.request_id = status, code, request_id
        self.retryable, self.retry_after_s = retryable, retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, with every field."""
        rebuild = partial(
            ApiError,
            self.message,
            param=self.param,
            status=self.status,
            code=self.code,
            request_id=self.request_id,
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
        )
        return rebuild, ()


def api_error(response: httpx.Response, *, retryable: bool, retry_after_s: float | None) -> ApiError:
    """The error that a response with an error status stands for; its body must have been read."""
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
        retryable=retryable,
        retry_after_s=retry_after_s,
    )


def unreachable(base_url: str, error: httpx.RequestError) -> ServiceUnreachableError:
    """A transport's error in our words."""
    if isinstance(error, httpx.ReadTimeout):
        return ServiceUnreachableError(f"{base_url} took the request and did not answer in time; look at its log")
    return ServiceUnreachableError(
        f"nothing answers at {base_url} ({type(error).__name__}); start the service with `eda up`"
    )


def no_text(error: UnicodeEncodeError) -> InputError:
    """What a caller gave holds bytes that are no text, as the shell hands them on."""
    return InputError(
        f"{error.object[error.start : error.end][:8]!a} is no UTF-8 text and cannot be sent; write it anew"
    )
