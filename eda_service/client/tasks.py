"""`client.jobs`, `client.drafts` and `client.measurements`, for both clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from eda_service.client.answers.answers import JobEvent, Page
from eda_service.client.answers.task_answers import DeletedJob, Draft, Job, Measurement
from eda_service.client.calls import task_calls as calls
from eda_service.client.calls.calls import Call
from eda_service.client.deployments import AsyncSend, Send
from eda_service.client.retry import Patience
from eda_service.client.walking import every, every_async, last, last_async, until_ended, until_ended_async

T = TypeVar("T")


class PatientSend(Protocol):
    """Sends a call, and again while the service is away."""

    def __call__(self, call: Call[T], patience: Patience, /) -> T: ...


class AsyncPatientSend(Protocol):
    """The same, awaited."""

    async def __call__(self, call: Call[T], patience: Patience, /) -> T: ...


class Jobs:
    """Jobs of every kind.

    Args:
        send: The client's way to the service.
        patiently: The same, waiting for a service that went away.
        patience: Makes what counts how long that was.
    """

    def __init__(self, send: Send, patiently: PatientSend, patience: Callable[[], Patience]) -> None:
        self._send, self._patiently, self._patience = send, patiently, patience

    def get(self, job_id: str) -> Job:
        """One job."""
        return self._send(calls.job(job_id))

    def page(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        status: str | None = None,
        kind: str | None = None,
        metadata: Mapping[str, str] | None = None,
        prefix: str | None = None,
    ) -> Page[Job]:
        """One page of jobs, newest first; `kind` is `adapt`, `import_draft`, `measure` or `export`; `prefix` begins
        their ids."""
        asked = calls.jobs(limit=limit, after=after, status=status, kind=kind, metadata=metadata, prefix=prefix)
        return self._send(asked)

    def iterate(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        metadata: Mapping[str, str] | None = None,
        page_size: int = 100,
    ) -> Iterator[Job]:
        """Every job, newest first, page after page."""
        yield from every(
            lambda after: self.page(limit=page_size, after=after, status=status, kind=kind, metadata=metadata)
        )

    def delete(self, job_id: str) -> DeletedJob:
        """Delete a job that has ended, with all that it left but what it published."""
        return self._send(calls.delete_job(job_id))

    def cancel(self, job_id: str) -> Job:
        """Stop a job."""
        return self._send(calls.cancel(job_id))

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again."""
        return self._send(calls.retry(job_id))

    def set_priority(self, job_id: str, priority: int) -> Job:
        """Move a queued job up or down (0 to 100, higher runs first)."""
        return self._send(calls.set_priority(job_id, priority))

    def events(self, job_id: str, *, after: str | None = None) -> list[JobEvent]:
        """Every event of a job after the given one, oldest first."""
        return list(every(lambda last: self._send(calls.events(job_id, after=last)), after))

    def logs(self, job_id: str, *, stage: str | None = None, tail: int = 200) -> list[str]:
        """The last lines of a stage's log; of the latest stage that logged by default."""
        return list((self._send(calls.logs(job_id, stage=stage, tail=tail))).lines)

    def watch(self, job_id: str, *, interval_s: float = 0.5) -> Iterator[Job]:
        """The job again and again until it is terminal; that state is the last item."""
        patience = self._patience()
        yield from until_ended(lambda: self._patiently(calls.job(job_id), patience), interval_s)

    def wait(self, job_id: str, *, timeout_s: float | None = None, interval_s: float = 0.5) -> Job:
        """Block until the job is terminal.

        Raises:
            TimeoutError: It is not, after `timeout_s`.
        """
        return last(self.watch(job_id, interval_s=interval_s), timeout_s)


class Drafts:
    """The drafts resource.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def create(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue the import of a draft; `body` is that of `POST /v1/drafts`, the job's `result` will be the draft."""
        return self._send(calls.import_draft(body, idempotency_key))

    def get(self, draft: str) -> Draft:
        """One draft (name@version, or the newest of a name) with what was assumed and measured."""
        return self._send(calls.draft(draft))

    def page(self, *, limit: int = 20, after: str | None = None) -> Page[Draft]:
        """One page of drafts, by name and version."""
        return self._send(calls.drafts(limit=limit, after=after))

    def iterate(self, *, page_size: int = 100) -> Iterator[Draft]:
        """Every draft, page after page."""
        yield from every(lambda after: self.page(limit=page_size, after=after))

    def delete(self, draft: str) -> None:
        """Remove a registered draft that nothing uses."""
        self._send(calls.delete_draft(draft))


class Measurements:
    """The measurements resource.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: Send) -> None:
        self._send = send

    def create(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a measurement; `body` is that of `POST /v1/measurements`."""
        return self._send(calls.measure(body, idempotency_key))

    def get(self, job_id: str) -> Measurement:
        """One measurement, with its result once it has succeeded."""
        return self._send(calls.measurement(job_id))


class AsyncJobs:
    """`Jobs`, awaited.

    Args:
        send: The client's way to the service.
        patiently: The same, waiting for a service that went away.
        patience: Makes what counts how long that was.
    """

    def __init__(self, send: AsyncSend, patiently: AsyncPatientSend, patience: Callable[[], Patience]) -> None:
        self._send, self._patiently, self._patience = send, patiently, patience

    async def get(self, job_id: str) -> Job:
        """One job."""
        return await self._send(calls.job(job_id))

    async def page(
        self,
        *,
        limit: int = 20,
        after: str | None = None,
        status: str | None = None,
        kind: str | None = None,
        metadata: Mapping[str, str] | None = None,
        prefix: str | None = None,
    ) -> Page[Job]:
        """One page of jobs, newest first; `kind` is `adapt`, `import_draft`, `measure` or `export`; `prefix` begins
        their ids."""
        asked = calls.jobs(limit=limit, after=after, status=status, kind=kind, metadata=metadata, prefix=prefix)
        return await self._send(asked)

    async def iterate(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        metadata: Mapping[str, str] | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Job]:
        """Every job, newest first, page after page."""
        async for each in every_async(
            lambda after: self.page(limit=page_size, after=after, status=status, kind=kind, metadata=metadata)
        ):
            yield each

    async def delete(self, job_id: str) -> DeletedJob:
        """Delete a job that has ended, with all that it left but what it published."""
        return await self._send(calls.delete_job(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Stop a job."""
        return await self._send(calls.cancel(job_id))

    async def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again."""
        return await self._send(calls.retry(job_id))

    async def set_priority(self, job_id: str, priority: int) -> Job:
        """Move a queued job up or down (0 to 100, higher runs first)."""
        return await self._send(calls.set_priority(job_id, priority))

    async def events(self, job_id: str, *, after: str | None = None) -> list[JobEvent]:
        """Every event of a job after the given one, oldest first."""
        return [each async for each in every_async(lambda last: self._send(calls.events(job_id, after=last)), after)]

    async def logs(self, job_id: str, *, stage: str | None = None, tail: int = 200) -> list[str]:
        """The last lines of a stage's log; of the latest stage that logged by default."""
        return list((await self._send(calls.logs(job_id, stage=stage, tail=tail))).lines)

    async def watch(self, job_id: str, *, interval_s: float = 0.5) -> AsyncIterator[Job]:
        """The job again and again until it is terminal; that state is the last item."""
        patience = self._patience()
        async for job in until_ended_async(lambda: self._patiently(calls.job(job_id), patience), interval_s):
            yield job

    async def wait(self, job_id: str, *, timeout_s: float | None = None, interval_s: float = 0.5) -> Job:
        """Block until the job is terminal.

        Raises:
            TimeoutError: It is not, after `timeout_s`.
        """
        return await last_async(self.watch(job_id, interval_s=interval_s), timeout_s)


class AsyncDrafts:
    """`Drafts`, awaited.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: AsyncSend) -> None:
        self._send = send

    async def create(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue the import of a draft; `body` is that of `POST /v1/drafts`, the job's `result` will be the draft."""
        return await self._send(calls.import_draft(body, idempotency_key))

    async def get(self, draft: str) -> Draft:
        """One draft (name@version, or the newest of a name) with what was assumed and measured."""
        return await self._send(calls.draft(draft))

    async def page(self, *, limit: int = 20, after: str | None = None) -> Page[Draft]:
        """One page of drafts, by name and version."""
        return await self._send(calls.drafts(limit=limit, after=after))

    async def iterate(self, *, page_size: int = 100) -> AsyncIterator[Draft]:
        """Every draft, page after page."""
        async for each in every_async(lambda after: self.page(limit=page_size, after=after)):
            yield each

    async def delete(self, draft: str) -> None:
        """Remove a registered draft that nothing uses."""
        await self._send(calls.delete_draft(draft))


class AsyncMeasurements:
    """`Measurements`, awaited.

    Args:
        send: The client's way to the service.
    """

    def __init__(self, send: AsyncSend) -> None:
        self._send = send

    async def create(self, body: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a measurement; `body` is that of `POST /v1/measurements`."""
        return await self._send(calls.measure(body, idempotency_key))

    async def get(self, job_id: str) -> Measurement:
        """One measurement, with its result once it has succeeded."""
        return await self._send(calls.measurement(job_id))
