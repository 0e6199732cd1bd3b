"""`client.chat`: conversations with what is deployed, as they are decoded, for both clients."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping

import httpx

from eda_service.client.answers.chat_answers import ChatPiece, ChatStream, chat_body
from eda_service.client.connection import Connection
from eda_service.client.errors import api_error, no_text, unreachable
from eda_service.client.retry import retry_after_s, should_retry

_PATH = "/v1/chat/completions"
_SILENCE_S = 300.0
"""How long the first token may take behind other people's requests."""


class Chat:
    """Answers of what is deployed.

    Args:
        http: The client's connections.
        connection: Its settings.
    """

    def __init__(self, http: httpx.Client, connection: Connection) -> None:
        self._http, self._connection = http, connection

    def stream(
        self,
        model: str,
        messages: Iterable[Mapping[str, str]],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> Generator[ChatPiece, None, None]:
        """The answer to a conversation, piece by piece. Whoever stops reading ends the answer.

        Args:
            model: A deployment's name.
            messages: `role` and `content` of each.
            temperature: 0 is greedy; None: the model's own.
            max_tokens: Of the answer; None: what the context holds.
            seed: Of sampling.

        Raises:
            ApiError: The endpoint refuses, or ends the answer with an error.
            ServiceUnreachableError: It does not answer.
            UnexpectedAnswerError: The answer breaks off.
        """
        body = chat_body(model, messages, temperature=temperature, max_tokens=max_tokens, seed=seed)
        found = ChatStream()
        try:
            with self._http.stream("POST", _PATH, json=body, timeout=_timeout(self._connection)) as response:
                if not response.is_success:
                    response.read()
                    raise _refusal(response)
                found.connected(response.headers.get("content-type", ""))
                for chunk in response.iter_bytes():
                    yield from found.feed(chunk)
                found.ended()
        except UnicodeEncodeError as error:
            raise no_text(error) from error
        except httpx.RequestError as error:
            if not found.is_connected:
                raise unreachable(self._connection.base_url, error) from error
            found.ended(error)


class AsyncChat:
    """`Chat`, awaited.

    Args:
        http: The client's connections.
        connection: Its settings.
    """

    def __init__(self, http: httpx.AsyncClient, connection: Connection) -> None:
        self._http, self._connection = http, connection

    async def stream(
        self,
        model: str,
        messages: Iterable[Mapping[str, str]],
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
    ) -> AsyncGenerator[ChatPiece, None]:
        """The answer to a conversation, piece by piece. Whoever closes the iterator ends the answer.

        Args:
            model: A deployment's name.
            messages: `role` and `content` of each.
            temperature: 0 is greedy; None: the model's own.
            max_tokens: Of the answer; None: what the context holds.
            seed: Of sampling.

        Raises:
            ApiError: The endpoint refuses, or ends the answer with an error.
            ServiceUnreachableError: It does not answer.
            UnexpectedAnswerError: The answer breaks off.
        """
        body = chat_body(model, messages, temperature=temperature, max_tokens=max_tokens, seed=seed)
        found = ChatStream()
        try:
            async with self._http.stream("POST", _PATH, json=body, timeout=_timeout(self._connection)) as response:
                if not response.is_success:
                    await response.aread()
                    raise _refusal(response)
                found.connected(response.headers.get("content-type", ""))
                async for chunk in response.aiter_bytes():
                    for piece in found.feed(chunk):
                        yield piece
                found.ended()
        except UnicodeEncodeError as error:
            raise no_text(error) from error
        except httpx.RequestError as error:
            if not found.is_connected:
                raise unreachable(self._connection.base_url, error) from error
            found.ended(error)


def _timeout(connection: Connection) -> httpx.Timeout:
    return httpx.Timeout(connection.timeout_s, read=max(_SILENCE_S, connection.timeout_s))


def _refusal(response: httpx.Response) -> Exception:
    return api_error(
        response,
        retryable=should_retry(response.status_code, response.headers),
        retry_after_s=retry_after_s(response.headers, time.time()),
    )
