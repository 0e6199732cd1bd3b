"""Hypothesis drives the store and a plain-Python model through the same steps; two dispatchers, one clock, two owners.

Compared after every step: no job is lost, all states and tokens are the same, never more occupy the cluster than there
is room for, and of those that it can never run one at most waits in it. At the end of a run: no event is lost, ids
ascend, one outbox row stands for each end of a job with a webhook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from queue_model import OCCUPYING, ModelJob, QueueModel, RefusedError
from sqlalchemy import delete, select
from store_helpers import Clock, config

from eda_service import errors
from eda_service.capacity import UNKNOWN, Capacity, Machines, Need
from eda_service.jobstore import JobStore, Status
from eda_service.jobstore.models import Base, JobRow, OutboxRow

MAX_RUNNING = 3
CLUSTER = Machines(Capacity(cpus=8.0, gpus=4), (Capacity(cpus=4.0, gpus=2),))
# Of each content; no node holds the last one, the cluster as a whole does.
NEEDS = (Need(Capacity(8.0, 0), Capacity(4.0, 0)), UNKNOWN, Need(Capacity(1.0, 4), Capacity(1.0, 4)))
HOPELESS = 2
MAX_QUEUED = 5
LEASE_S, BACK_OFF_S = 4, 3
NUM_LINES = 6  # each job's events.jsonl has lines "line0" to "line5"

OWNERS = st.sampled_from(["ann", "bob"])
HOLDERS = st.sampled_from([0, 1])
PRIORITIES = st.sampled_from([10, 50, 90])
TOKENS = st.sampled_from(["right", "right", "stale", "none"])
WAITS_S = st.sampled_from([0, 0, BACK_OFF_S - 1, BACK_OFF_S, LEASE_S - 1, LEASE_S])  # just before, and just at the end
WEBHOOK = {"url": "https://hooks.example/x", "secret": "whsec_x"}


class QueueMachine(RuleBasedStateMachine):
    """Two stores over one database, as two dispatchers (and API processes) would have them."""

    jobs: Bundle[str] = Bundle("jobs")

    def __init__(self, stores: list[JobStore], clock: Clock) -> None:
        super().__init__()
        self.stores, self.clock, self.model = stores, clock, QueueModel()
        with stores[0].database.write.begin() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))

    @rule(
        target=jobs,
        owner=OWNERS,
        content=st.integers(0, 2),
        priority=PRIORITIES,
        key=st.sampled_from([None, None, "k1", "k2"]),
        force=st.booleans(),
        has_webhook=st.booleans(),
        place=HOLDERS,
    )
    def create(
        self, owner: str, content: int, priority: int, key: str | None, force: bool, has_webhook: bool, place: int
    ) -> str | MultipleResults[str]:
        request = f"{content} {priority} {has_webhook}"
        what = (content, has_webhook)
        found: list[str | None] = []

        def expect() -> None:
            found.append(self.model.expected_of_create(owner, what, key, request, force))
            if found[0] is None:
                self.model.require_room(owner, MAX_QUEUED)

        result = self.both(
            expect,
            lambda: self.stores[place].jobs.create(
                config(f"m{content}"),
                owner=owner,
                priority=priority,
                idempotency_key=key,
                request_sha256=request,
                force=force,
                webhook=WEBHOOK if has_webhook else None,
                max_queued_per_owner=MAX_QUEUED,
                need=NEEDS[content],
            ),
        )
        if result is None:
            return multiple()
        job, made = result
        assert (made, job.id) == (found[0] is None, found[0] or job.id)
        if key is not None:
            self.model.keys.setdefault((owner, key), (request, job.id))
        if not made:
            return multiple()
        self.model.jobs.append(ModelJob(job.id, owner, what, priority, has_webhook, content == HOPELESS))
        return str(job.id)

    @rule(
        place=HOLDERS,
        max_running=st.integers(1, MAX_RUNNING),
        per_owner=st.sampled_from([None, 1, 2]),
        wait_s=WAITS_S,
        grows=st.booleans(),
    )
    def claim(self, place: int, max_running: int, per_owner: int | None, wait_s: int, grows: bool) -> None:
        self.clock.now += wait_s
        expected = self.model.claim(self.now, str(place), LEASE_S, max_running, per_owner, grows=grows)
        claimed = self.stores[place].leases.claim(
            max_running=max_running,
            holder=str(place),
            lease_s=LEASE_S,
            max_running_per_owner=per_owner,
            cluster=CLUSTER,
            cluster_grows=grows,
        )
        assert (claimed and claimed.id) == (expected and expected.id)

    @rule(place=HOLDERS, wait_s=WAITS_S)
    def hold(self, place: int, wait_s: int) -> None:
        self.clock.now += wait_s
        expected = self.model.hold(self.now, str(place), LEASE_S)
        held = self.stores[place].leases.hold(holder=str(place), lease_s=LEASE_S)
        assert [(job.id, job.lease_token) for job in held] == [(job.id, job.token) for job in expected]

    @rule(place=HOLDERS)
    def release(self, place: int) -> None:
        self.model.release(str(place))
        self.stores[place].leases.release(holder=str(place))

    @rule(job_id=jobs, to=st.sampled_from([s for s in Status if s is not Status.RUNNING]), mode=TOKENS, place=HOLDERS)
    def move(self, job_id: str, to: Status, mode: str, place: int) -> None:
        """Any move, legal or not: ends, lost attempts with back-off, cancels, retries."""
        job, token, event = self.model.job(job_id), self.token(job_id, mode), f"to_{to.value}"
        not_before = self.now + BACK_OFF_S if to is Status.QUEUED else 0
        self.both(
            lambda: self.model.transition(job, to.value, event, token, not_before),
            lambda: self.stores[place].jobs.transition(
                job_id, to, event=event, message="m", token=token, not_before=not_before
            ),
        )

    @rule(job_id=jobs, priority=PRIORITIES, owner=OWNERS)
    def set_priority(self, job_id: str, priority: int, owner: str) -> None:
        job = self.model.job(job_id)

        def expect() -> None:
            if job.owner != owner:
                raise RefusedError("NotFoundError")
            if job.status != "queued":
                raise RefusedError("ConflictError")
            job.priority = priority
            job.events.append("priority_changed")

        self.both(expect, lambda: self.stores[0].jobs.set_priority(job_id, priority, owner=owner))

    @rule(job_id=jobs, start=st.integers(0, NUM_LINES), count=st.integers(0, NUM_LINES), mode=TOKENS, place=HOLDERS)
    def import_events(self, job_id: str, start: int, count: int, mode: str, place: int) -> None:
        names = [f"line{place}" for place in range(NUM_LINES)][start : start + count]
        lines = [{"at": 1, "level": "info", "type": name, "message": "m", "stage": "train"} for name in names]
        token = self.token(job_id, mode)
        self.both(
            lambda: self.model.import_events(self.model.job(job_id), start, names, token),
            lambda: self.stores[place].events.bring_in(job_id, lines, start=start, token=token),
        )

    @rule(job_id=jobs, mode=TOKENS, place=HOLDERS)
    def write_as_dispatcher(self, job_id: str, mode: str, place: int) -> None:
        job, store, token = self.model.job(job_id), self.stores[place], self.token(job_id, mode)

        def expect() -> None:
            self.model.check_token(job, token)
            job.events.append("note")

        self.both(expect, lambda: store.events.add(job_id, "note", "m", token=token))
        check: Callable[[], None] = lambda: self.model.check_token(job, token)  # noqa: E731
        self.both(check, lambda: store.jobs.mark_submitted(job_id, token=token, ray_session="s"))
        self.both(check, lambda: store.jobs.record_progress(job_id, {"stage": "train", "percent": 1.0}, token=token))

    @rule(fate=st.sampled_from(["delivered", "failed", "gave_up"]), place=HOLDERS)
    def send_webhook(self, fate: str, place: int) -> None:
        store = self.stores[place]
        due = store.outbox.due()
        if not due:
            return
        if fate == "delivered":
            store.outbox.delivered(due[0].id)
        elif fate == "failed":
            store.outbox.failed(due[0].id, "503", not_before=self.now + BACK_OFF_S)
        else:
            store.outbox.gave_up(due[0].id, "503")
        self.model.job(due[0].job_id).events.append(f"webhook_{fate}")
        assert due[0].id not in {each.id for each in store.outbox.due()}

    @invariant()
    def same_jobs(self) -> None:
        found, has_more = self.stores[1].jobs.page(limit=1000)
        assert not has_more
        seen = [
            (job.id, job.owner, job.status.value, job.attempt, job.priority, job.not_before, job.lease_token)
            for job in reversed(found)
        ]
        wanted = [(j.id, j.owner, j.status, j.attempt, j.priority, j.not_before, j.token) for j in self.model.jobs]
        assert seen == wanted
        hopeless = [job.gpus > 0 for job in found if job.status.value in OCCUPYING]
        assert hopeless.count(False) <= MAX_RUNNING
        assert hopeless.count(True) <= 1

    def teardown(self) -> None:
        store = self.stores[0]
        for job in self.model.jobs:
            events, has_more = store.events.of(job.id, owner=job.owner, limit=1000)
            assert not has_more
            assert [event.type for event in events] == job.events
            ids = [event.id for event in events]
            assert ids == sorted(set(ids))
        with store.database.read() as session:
            told = [
                (row.job_id, row.payload["type"]) for row in session.scalars(select(OutboxRow).order_by(OutboxRow.id))
            ]
            holders = {row.id: row.lease_holder for row in session.scalars(select(JobRow))}
        for job in self.model.jobs:
            assert [kind for job_id, kind in told if job_id == job.id] == job.told
        assert holders == {job.id: job.holder for job in self.model.jobs}

    @property
    def now(self) -> int:
        return int(self.clock.now)

    def token(self, job_id: str, mode: str) -> int | None:
        right = self.model.job(job_id).token
        return {"right": right, "stale": right - 1, "none": None}[mode]

    def both(self, expect: Callable[[], Any], call: Callable[[], Any]) -> Any:
        """Let the model go first; what it refuses, the store must refuse with the same error."""
        refused = ""
        try:
            expect()
        except RefusedError as error:
            refused = str(error)
        if not refused:
            return call()
        with pytest.raises(errors.EdaError) as caught:
            call()
        assert type(caught.value).__name__ == refused
        return None


def test_the_store_does_what_the_model_does(open_store: Callable[[], JobStore], clock: Clock) -> None:
    stores = [open_store(), open_store()]
    run_state_machine_as_test(
        lambda: QueueMachine(stores, clock),
        settings=settings(
            max_examples=30, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
