"""The asynchronous client, on asyncio: the methods of `blocking.py`, awaited."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from eda_service.client.answers.answers import Adaptation, Estimate, JobEvent, Page
from eda_service.client.answers.sample_answers import SamplePage
from eda_service.client.calls import calls
from eda_service.client.calls.calls import Call
from eda_service.client.chat import AsyncChat
from eda_service.client.connection import DEFAULT_URL, Connection
from eda_service.client.deployments import AsyncDeployments, AsyncPacks
from eda_service.client.errors import ApiError, ServiceUnreachableError, unreachable
from eda_service.client.exports import AsyncExports
from eda_service.client.files import AsyncFiles
from eda_service.client.logs import LogCursor
from eda_service.client.retry import Patience
from eda_service.client.stream import EventStream
from eda_service.client.tasks import AsyncDrafts, AsyncJobs, AsyncMeasurements
from eda_service.client.walking import every_async, last_async, until_ended_async

T = TypeVar("T")


class AsyncClient:
    """Calls one service. Every method raises `ApiError` when the service refuses, `ServiceUnreachableError` when it
    does not answer, and `InputError` for arguments that cannot be sent.

    Args:
        base_url: e.g. `http://127.0.0.1:8700`.
        api_key: `eda_...`; None: the environment's `EDA_API_KEY`, if there is one.
        timeout_s: Deadline of one request. The first that names a local target waits until a process that checks it
            has started.
        max_retries: How often a call that does no harm twice is repeated after a broken connection, 429, 502, 503, 504.
        backoff_s: Wait before the first repetition; doubles each time, with jitter.
        patience_s: How long `watch`, `wait` and the followers wait for a service that went away.

    Attributes:
        chat: Conversations with it.
        deployments: What the endpoint serves.
        packs: What may be served, and what it measured.
        jobs: Jobs of every kind.
        drafts: Base drafts, and importing them.
        measurements: What a draft gives on a target.
        exports: Packs as other engines load them.
        files: Prompt files, sent from here.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 2,
        backoff_s: float = 0.5,
        patience_s: float = 60.0,
    ) -> None:
        self.base_url = base_url
        self._connection = Connection.of(
            base_url,
            api_key=api_key,
            timeout_s=timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
            patience_s=patience_s,
        )
        self._http = httpx.AsyncClient(**self._connection.http_options())
        self.chat = AsyncChat(self._http, self._connection)
        self.deployments, self.packs = AsyncDeployments(self._send), AsyncPacks(self._send)
        self.jobs = AsyncJobs(self._send, self._patiently, self._connection.patience)
        self.drafts, self.measurements = AsyncDrafts(self._send), AsyncMeasurements(self._send)
        self.files = AsyncFiles(self._send)
        self.exports = AsyncExports(self._send, self._http, self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def create(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Adaptation:
        """Queue an adaptation; `body` is that of `POST /v1/adaptations`.

        Args:
            body: The request.
            idempotency_key: A repeated key returns the first call's job. Each call makes one of its own by default.
        """
        return await self._send(calls.create(body, idempotency_key))

    async def estimate(self, body: Mapping[str, Any]) -> Estimate:
        """What the job of such a body would need; nothing is queued."""
        return await self._send(calls.estimate(body))

    async def get(self, job_id: str) -> Adaptation:
        """One job."""
        return await self._send(calls.get(job_id))

    async def page(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[Adaptation]:
        """One page of jobs, newest first."""
        return await self._send(calls.page(limit=limit, after=after, status=status, metadata=metadata))

    async def iterate(
        self, *, status: str | None = None, metadata: Mapping[str, str] | None = None, page_size: int = 100
    ) -> AsyncIterator[Adaptation]:
        """Every job, newest first, page after page."""
        async for each in every_async(
            lambda after: self.page(limit=page_size, after=after, status=status, metadata=metadata)
        ):
            yield each

    async def cancel(self, job_id: str) -> Adaptation:
        """Stop a job."""
        return await self._send(calls.cancel(job_id))

    async def retry(self, job_id: str) -> Adaptation:
        """Queue a failed or cancelled job again."""
        return await self._send(calls.retry(job_id))

    async def set_priority(self, job_id: str, priority: int) -> Adaptation:
        """Move a queued job up or down (0 to 100, higher runs first)."""
        return await self._send(calls.set_priority(job_id, priority))

    async def events(self, job_id: str, *, after: str | None = None) -> list[JobEvent]:
        """Every event of a job after the given one, oldest first."""
        return [each async for each in every_async(lambda last: self._send(calls.events(job_id, after=last)), after)]

    async def stream_events(self, job_id: str, *, after: str | None = None) -> AsyncIterator[JobEvent]:
        """Events as they happen, until the job has ended and its last one is out; broken connections are resumed."""
        stream, patience = EventStream(after), self._connection.patience()
        while True:
            try:
                async with contextlib.aclosing(self._stream_once(stream, patience, job_id)) as connection:
                    async for event in connection:
                        yield event
                if (await self.get(job_id)).is_terminal:
                    for event in await self.events(job_id, after=stream.last_id):
                        yield stream.seen(event)
                    return
                delay_s = patience.pause()
            except (ServiceUnreachableError, ApiError) as error:
                delay_s = patience.lost(error)
            await asyncio.sleep(delay_s)

    async def logs(self, job_id: str, *, stage: str | None = None, tail: int = 200) -> list[str]:
        """The last lines of a stage's log; of the latest stage that logged by default."""
        return list((await self._send(calls.logs(job_id, stage=stage, tail=tail))).lines)

    async def follow_logs(
        self, job_id: str, *, stage: str | None = None, tail: int = 200, interval_s: float = 1.0
    ) -> AsyncIterator[str]:
        """The last lines, then each further one until the job has ended.

        Args:
            job_id: The job.
            stage: This stage's log alone; None: the latest one's, and then each later one.
            tail: Lines from before.
            interval_s: Time between two looks.
        """
        cursor, patience = LogCursor(job_id, stage=stage, tail=tail), self._connection.patience()
        while True:
            job = await self._patiently(calls.get(job_id), patience)
            for line in cursor.take(await self._patiently(cursor.call(), patience)):
                yield line
            while cursor.has_more(job):
                for line in cursor.take(await self._patiently(cursor.call(), patience)):
                    yield line
            if job.is_terminal:
                return
            await asyncio.sleep(interval_s)

    async def samples(
        self, job_id: str, *, kept: bool | None = None, after: str | None = None, limit: int = 20
    ) -> SamplePage:
        """A page of what the target wrote and selection kept or dropped, the most valuable first.

        Args:
            job_id: The job.
            kept: Those that were kept, or those that were dropped; None: both.
            after: `last_id` of the page before.
            limit: At most so many, 1 to 100.
        """
        return await self._send(calls.samples(job_id, kept=kept, after=after, limit=limit))

    async def report(self, job_id: str) -> dict[str, Any]:
        """The evaluation record of a job."""
        return await self._send(calls.report(job_id))

    async def report_page(self, job_id: str) -> str:
        """The report of a job as one HTML file that needs nothing else."""
        return await self._send(calls.report_page(job_id))

    async def health(self) -> dict[str, Any]:
        """State of the service's parts; once there are keys, `status` alone for who cannot read jobs."""
        return await self._send(calls.health())

    async def metrics(self) -> str:
        """What Prometheus scrapes, in its text format."""
        return await self._send(calls.metrics())

    async def models(self) -> list[str]:
        """Names that the serving endpoint offers."""
        return await self._send(calls.models())

    async def watch(self, job_id: str, *, interval_s: float = 0.5) -> AsyncIterator[Adaptation]:
        """The job again and again until it is terminal; that state is the last item."""
        patience = self._connection.patience()
        async for job in until_ended_async(lambda: self._patiently(calls.get(job_id), patience), interval_s):
            yield job

    async def wait(self, job_id: str, *, timeout_s: float | None = None, interval_s: float = 0.5) -> Adaptation:
        """Block until the job is terminal.

        Raises:
            TimeoutError: It is not, after `timeout_s`.
        """
        return await last_async(self.watch(job_id, interval_s=interval_s), timeout_s)

    async def _send(self, call: Call[T]) -> T:
        num_retries = 0
        while True:
            try:
                response = await self._http.send(call.request(self._http))
            except httpx.RequestError as error:
                delay_s = self._connection.after_break(call, error, num_retries)
            else:
                again_s = self._connection.after_answer(call, response, num_retries)
                if again_s is None:
                    return call.read(response)
                delay_s = again_s
            await asyncio.sleep(delay_s)
            num_retries += 1

    async def _patiently(self, call: Call[T], patience: Patience) -> T:
        while True:
            try:
                answer = await self._send(call)
            except (ServiceUnreachableError, ApiError) as error:
                await asyncio.sleep(patience.lost(error))
            else:
                patience.found()
                return answer

    async def _stream_once(
        self, stream: EventStream, patience: Patience, job_id: str
    ) -> AsyncGenerator[JobEvent, None]:
        call = calls.event_stream(job_id, after=stream.last_id)
        request = call.request(self._http, timeout=self._connection.stream_timeout())
        try:
            response = await self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                    call.read(response)
                stream.connected(response.headers.get("content-type", ""))
                async for chunk in response.aiter_bytes():
                    patience.found()
                    for event in stream.feed(chunk):
                        yield event
            finally:
                await response.aclose()
        except httpx.RequestError as error:
            raise unreachable(self.base_url, error) from error
