"""What both clients are made of: where the service is, how it is asked, and how often again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx

from eda_service import __version__
from eda_service.client.calls import calls
from eda_service.client.calls.calls import Call
from eda_service.client.errors import unreachable
from eda_service.client.retry import Patience, RetryPolicy
from eda_service.environment import Environment
from eda_service.errors import InputError

DEFAULT_URL = "http://127.0.0.1:8700"
STREAM_SILENCE_S = 60.0  # the service sends a comment at least every half minute


@dataclass(frozen=True)
class Connection:
    """One client's settings, checked.

    Args:
        base_url: Where the service is.
        headers: Sent with each request.
        timeout_s: Deadline of one request.
        patience_s: How long `watch` and its like wait for a service that went away.
        retry: When a call is repeated.
    """

    base_url: str
    headers: dict[str, str]
    timeout_s: float
    patience_s: float
    retry: RetryPolicy

    @classmethod
    def of(
        cls,
        base_url: str,
        *,
        api_key: str | None,
        timeout_s: float,
        max_retries: int,
        backoff_s: float,
        patience_s: float,
    ) -> Connection:
        """Check a client's arguments; without a key, `EDA_API_KEY` is taken from the environment.

        Raises:
            InputError: The URL is none of http or https, or the key cannot stand in a header.
        """
        headers = {"user-agent": f"eda-client/{__version__}"}
        key = (Environment.read().api_key if api_key is None else api_key).strip()
        if key:
            headers["authorization"] = f"Bearer {calls.header_value(key, 'api_key')}"
        policy = RetryPolicy(max_retries=max_retries, first_delay_s=backoff_s)
        return cls(_checked_url(base_url), headers, timeout_s, patience_s, policy)

    def http_options(self) -> dict[str, Any]:
        """Arguments of `httpx.Client` and `httpx.AsyncClient`; proxies and netrc of the environment are not for us."""
        return {"base_url": self.base_url, "headers": self.headers, "timeout": self.timeout_s, "trust_env": False}

    def stream_timeout(self) -> httpx.Timeout:
        """Deadlines of a response that goes on for hours: silence is what ends it."""
        return httpx.Timeout(self.timeout_s, read=STREAM_SILENCE_S)

    def patience(self) -> Patience:
        """A fresh count of how long the service has been away."""
        return Patience(self.retry, self.patience_s)

    def after_break(self, call: Call[Any], error: httpx.RequestError, num_retries: int) -> float:
        """How long to wait before a call whose connection broke is repeated.

        Raises:
            ServiceUnreachableError: It is not repeated.
        """
        delay_s = self.retry.after_break(num_retries, repeatable=call.repeatable)
        if delay_s is None:
            raise unreachable(self.base_url, error) from error
        return delay_s

    def after_answer(self, call: Call[Any], response: httpx.Response, num_retries: int) -> float | None:
        """How long to wait before a call with this answer is repeated; None: the answer is final."""
        if response.is_success:
            return None
        return self.retry.after_answer(
            response.status_code, response.headers, num_retries, repeatable=call.repeatable, now=time.time()
        )


def _checked_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise InputError(f"{text[:200]!r} is no service URL; write it like {DEFAULT_URL}", param="url")
    return text
