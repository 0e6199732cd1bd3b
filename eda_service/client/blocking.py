"""The blocking client. `asynchronous.py` has the same methods; what they send and read stands once, in `calls.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from eda_service.client.answers.answers import Adaptation, Estimate, JobEvent, Page
from eda_service.client.answers.sample_answers import SamplePage
from eda_service.client.calls import calls
from eda_service.client.calls.calls import Call
from eda_service.client.chat import Chat
from eda_service.client.connection import DEFAULT_URL, Connection
from eda_service.client.deployments import Deployments, Packs
from eda_service.client.errors import ApiError, ServiceUnreachableError, unreachable
from eda_service.client.exports import Exports
from eda_service.client.files import Files
from eda_service.client.logs import LogCursor
from eda_service.client.retry import Patience
from eda_service.client.stream import EventStream
from eda_service.client.tasks import Drafts, Jobs, Measurements
from eda_service.client.walking import every, last, until_ended

T = TypeVar("T")


class Client:
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
        self._http = httpx.Client(**self._connection.http_options())
        self.chat = Chat(self._http, self._connection)
        self.deployments, self.packs = Deployments(self._send), Packs(self._send)
        self.jobs = Jobs(self._send, self._patiently, self._connection.patience)
        self.drafts, self.measurements = Drafts(self._send), Measurements(self._send)
        self.files = Files(self._send)
        self.exports = Exports(self._send, self._http, self._connection)

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

        Args:
            body: The request.
            idempotency_key: A repeated key returns the first call's job. Each call makes one of its own by default.
        """
        return self._send(calls.create(body, idempotency_key))

    def estimate(self, body: Mapping[str, Any]) -> Estimate:
        """What the job of such a body would need; nothing is queued."""
        return self._send(calls.estimate(body))

    def get(self, job_id: str) -> Adaptation:
        """One job."""
        return self._send(calls.get(job_id))

    def page(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        status: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Page[Adaptation]:
        """One page of jobs, newest first."""
        return self._send(calls.page(limit=limit, after=after, status=status, metadata=metadata))

    def iterate(
        self, *, status: str | None = None, metadata: Mapping[str, str] | None = None, page_size: int = 100
    ) -> Iterator[Adaptation]:
        """Every job, newest first, page after page."""
        yield from every(lambda after: self.page(limit=page_size, after=after, status=status, metadata=metadata))

    def cancel(self, job_id: str) -> Adaptation:
        """Stop a job."""
        return self._send(calls.cancel(job_id))

    def retry(self, job_id: str) -> Adaptation:
        """Queue a failed or cancelled job again."""
        return self._send(calls.retry(job_id))

    def set_priority(self, job_id: str, priority: int) -> Adaptation:
        """Move a queued job up or down (0 to 100, higher runs first)."""
        return self._send(calls.set_priority(job_id, priority))

    def events(self, job_id: str, *, after: str | None = None) -> list[JobEvent]:
        """Every event of a job after the given one, oldest first."""
        return list(every(lambda last: self._send(calls.events(job_id, after=last)), after))

    def stream_events(self, job_id: str, *, after: str | None = None) -> Iterator[JobEvent]:
        """Events as they happen, until the job has ended and its last one is out; broken connections are resumed."""
        stream, patience = EventStream(after), self._connection.patience()
        while True:
            try:
                yield from self._stream_once(stream, patience, job_id)
                if self.get(job_id).is_terminal:
                    yield from map(stream.seen, self.events(job_id, after=stream.last_id))
                    return
                delay_s = patience.pause()
            except (ServiceUnreachableError, ApiError) as error:
                delay_s = patience.lost(error)
            time.sleep(delay_s)

    def logs(self, job_id: str, *, stage: str | None = None, tail: int = 200) -> list[str]:
        """The last lines of a stage's log; of the latest stage that logged by default."""
        return list(self._send(calls.logs(job_id, stage=stage, tail=tail)).lines)

    def follow_logs(
        self, job_id: str, *, stage: str | None = None, tail: int = 200, interval_s: float = 1.0
    ) -> Iterator[str]:
        """The last lines, then each further one until the job has ended.

        Args:
            job_id: The job.
            stage: This stage's log alone; None: the latest one's, and then each later one.
            tail: Lines from before.
            interval_s: Time between two looks.
        """
        cursor, patience = LogCursor(job_id, stage=stage, tail=tail), self._connection.patience()
        while True:
            job = self._patiently(calls.get(job_id), patience)
            yield from cursor.take(self._patiently(cursor.call(), patience))
            while cursor.has_more(job):
                yield from cursor.take(self._patiently(cursor.call(), patience))
            if job.is_terminal:
                return
            time.sleep(interval_s)

    def samples(
        self, job_id: str, *, kept: bool | None = None, after: str | None = None, limit: int = 20
    ) -> SamplePage:
        """A page of what the target wrote and selection kept or dropped, the most valuable first.

        Args:
            job_id: The job.
            kept: Those that were kept, or those that were dropped; None: both.
            after: `last_id` of the page before.
            limit: At most so many, 1 to 100.
        """
        return self._send(calls.samples(job_id, kept=kept, after=after, limit=limit))

    def report(self, job_id: str) -> dict[str, Any]:
        """The evaluation record of a job."""
        return self._send(calls.report(job_id))

    def report_page(self, job_id: str) -> str:
        """The report of a job as one HTML file that needs nothing else."""
        return self._send(calls.report_page(job_id))

    def health(self) -> dict[str, Any]:
        """State of the service's parts; once there are keys, `status` alone for who cannot read jobs."""
        return self._send(calls.health())

    def metrics(self) -> str:
        """What Prometheus scrapes, in its text format."""
        return self._send(calls.metrics())

    def models(self) -> list[str]:
        """Names that the serving endpoint offers."""
        return self._send(calls.models())

    def watch(self, job_id: str, *, interval_s: float = 0.5) -> Iterator[Adaptation]:
        """The job again and again until it is terminal; that state is the last item."""
        patience = self._connection.patience()
        yield from until_ended(lambda: self._patiently(calls.get(job_id), patience), interval_s)

    def wait(self, job_id: str, *, timeout_s: float | None = None, interval_s: float = 0.5) -> Adaptation:
        """Block until the job is terminal.

        Raises:
            TimeoutError: It is not, after `timeout_s`.
        """
        return last(self.watch(job_id, interval_s=interval_s), timeout_s)

    def _send(self, call: Call[T]) -> T:
        num_retries = 0
        while True:
            try:
                response = self._http.send(call.request(self._http))
            except httpx.RequestError as error:
                delay_s = self._connection.after_break(call, error, num_retries)
            else:
                again_s = self._connection.after_answer(call, response, num_retries)
                if again_s is None:
                    return call.read(response)
                delay_s = again_s
            time.sleep(delay_s)
            num_retries += 1

    def _patiently(self, call: Call[T], patience: Patience) -> T:
        while True:
            try:
                answer = self._send(call)
            except (ServiceUnreachableError, ApiError) as error:
                time.sleep(patience.lost(error))
            else:
                patience.found()
                return answer

    def _stream_once(self, stream: EventStream, patience: Patience, job_id: str) -> Iterator[JobEvent]:
        call = calls.event_stream(job_id, after=stream.last_id)
        request = call.request(self._http, timeout=self._connection.stream_timeout())
        try:
            response = self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    call.read(response)
                stream.connected(response.headers.get("content-type", ""))
                for chunk in response.iter_bytes():
                    patience.found()
                    yield from stream.feed(chunk)
            finally:
                response.close()
        except httpx.RequestError as error:
            raise unreachable(self.base_url, error) from error
