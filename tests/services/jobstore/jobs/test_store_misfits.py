"""Jobs that ask for more than the cluster has: they wait, and hold up nobody."""

from __future__ import annotations

import pytest
from store_helpers import config

from eda_service.capacity import UNKNOWN, Capacity, Machines, Need
from eda_service.jobstore import Job, JobStore, Status

CLUSTER = Machines(Capacity(cpus=16.0, gpus=0))
FITS = Need(Capacity(cpus=1.1, gpus=0))
HOPELESS = Need(Capacity(cpus=4.1, gpus=8))


def queue(store: JobStore, name: str, need: Need = FITS, priority: int = 50) -> Job:
    return store.jobs.create(config(name), need=need, priority=priority)[0]


def claim(
    store: JobStore, cluster: Machines | None = CLUSTER, max_running: int = 1, *, grows: bool = False
) -> str | None:
    claimed = store.leases.claim(max_running=max_running, cluster=cluster, cluster_grows=grows)
    return None if claimed is None else claimed.id


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_of_ten_jobs_with_a_hopeless_one_nine_run_one_after_the_other(store: JobStore, place: int, grows: bool) -> None:
    jobs = [queue(store, f"m{n}", HOPELESS if n == place else FITS).id for n in range(10)]
    hopeless, ended = jobs[place], []
    for _ in range(9):
        started = []
        while (job_id := claim(store, grows=grows)) is not None:
            started.append(job_id)
        running = [job_id for job_id in started if job_id != hopeless]
        assert len(running) == 1  # max_running is 1, and the hopeless one takes no place
        store.jobs.transition(running[0], Status.SUCCEEDED, event="job_succeeded", message="m")
        ended += running
    assert ended == [job_id for job_id in jobs if job_id != hopeless]
    assert store.jobs.get(hopeless).status is (Status.RUNNING if grows else Status.QUEUED)


def test_one_misfit_at_a_time_waits_in_a_cluster_that_grows(store: JobStore) -> None:
    first, second = (queue(store, f"m{n}", HOPELESS, priority=90).id for n in range(2))
    fits = queue(store, "fits").id
    assert [claim(store, grows=True) for _ in range(3)] == [first, fits, None]
    store.jobs.transition(first, Status.CANCELLING, event="x", message="x")
    assert claim(store, grows=True) is None
    store.jobs.transition(first, Status.CANCELLED, event="x", message="x")
    assert claim(store) is None
    assert claim(store, grows=True) == second


def test_once_the_cluster_has_grown_a_misfit_is_a_job_like_others(store: JobStore) -> None:
    first, second = (queue(store, f"m{n}", HOPELESS).id for n in range(2))
    assert [claim(store, grows=True) for _ in range(2)] == [first, None]
    grown = Machines(Capacity(cpus=16.0, gpus=8))
    assert claim(store, grown) is None  # the first one holds the only place now
    assert claim(store, grown, max_running=2) == second


def test_of_an_unknown_cluster_and_of_unknown_needs_every_job_fits(store: JobStore) -> None:
    unknown, misfit = queue(store, "unknown", UNKNOWN).id, queue(store, "m", HOPELESS).id
    assert claim(store, Machines(Capacity(cpus=0.0, gpus=0))) == unknown
    assert claim(store, None) is None
    assert claim(store, None, max_running=2) == misfit


def test_a_need_that_is_a_sum_of_fractions_fits_what_is_as_large(store: JobStore) -> None:
    job = queue(store, "m", Need(Capacity(cpus=sum([0.1] * 10), gpus=0)))
    store.leases.tell_misfits(Machines(Capacity(cpus=0.9999999999, gpus=0)))
    assert [event.type for event in store.events.of(job.id)[0]] == ["job_created"]


def test_a_misfit_is_told_once_with_both_numbers(store: JobStore) -> None:
    running, waiting, fits = queue(store, "a", HOPELESS), queue(store, "b", HOPELESS), queue(store, "c")
    assert claim(store, grows=True) == running.id
    assert sorted(store.leases.tell_misfits(CLUSTER)) == sorted([running.id, waiting.id])
    assert store.leases.tell_misfits(CLUSTER) == []
    told = [event for event in store.events.of(waiting.id)[0] if event.type == "waiting_for_resources"]
    assert [event.level for event in told] == ["warning"]
    assert "4.1 CPUs and 8 GPUs" in told[0].message
    assert "16 CPUs and 0 GPUs" in told[0].message
    assert [event.type for event in store.events.of(fits.id)[0]] == ["job_created"]
    store.jobs.transition(waiting.id, Status.CANCELLED, event="x", message="x")
    assert store.leases.tell_misfits(Machines(Capacity(cpus=0.0, gpus=0))) == [fits.id]


def test_an_adopted_job_has_its_need_too(store: JobStore) -> None:
    store.adoption.adopt("by-hand", config(), created_at=5, need=HOPELESS)
    job = queue(store, "m").id
    assert claim(store) == job
    assert (store.jobs.get("by-hand").cpus, store.jobs.get("by-hand").gpus) == (4.1, 8)


def test_what_was_overruled_is_an_event_of_a_new_job_alone(store: JobStore) -> None:
    job, _ = store.jobs.create(config(), warnings=["the hub does not answer"])
    assert store.jobs.create(config(), warnings=["something else"]) == (job, False)
    told = [(event.type, event.level, event.message) for event in store.events.of(job.id)[0]]
    assert told[1:] == [("queued_all_the_same", "warning", "the hub does not answer")]


WIDE = Need(Capacity(cpus=2.1, gpus=4), Capacity(cpus=2.0, gpus=4))


@pytest.mark.parametrize(
    ("largest", "starts"),
    [
        ([(8.0, 1)], False),  # eight nodes of one GPU have eight in all, and none has four
        ([(8.0, 4)], True),
        ([(1.0, 8), (64.0, 2)], False),  # one node has the GPUs, another the CPUs
        ([(1.0, 8), (2.0, 4)], True),
        ([], True),  # not known
    ],
)
def test_a_job_starts_where_one_node_holds_its_largest_process(
    store: JobStore, largest: list[tuple[float, int]], starts: bool
) -> None:
    cluster = Machines(Capacity(cpus=64.0, gpus=8), tuple(Capacity(*node) for node in largest))
    wide, behind = queue(store, "wide", WIDE, priority=90).id, queue(store, "behind").id
    assert claim(store, cluster) == (wide if starts else behind)
    assert cluster.lack(WIDE) is None or not starts
    assert store.leases.tell_misfits(cluster) == ([] if starts else [wide])


def test_what_a_job_waits_for_is_kept_up_to_date_until_it_starts(store: JobStore) -> None:
    eight = Capacity(cpus=64.0, gpus=8)
    job = queue(store, "wide", WIDE)
    assert claim(store, Machines(eight, (Capacity(8.0, 1),))) is None
    store.leases.tell_misfits(Machines(eight, (Capacity(8.0, 1),)))
    waits = store.jobs.get(job.id).waits_for
    assert waits is not None
    assert "asks for 2 CPUs and 4 GPUs of one node, and no node has more than 8 CPUs and 1 GPU" in waits
    assert [event.message for event in store.events.of(job.id)[0]][1:] == [waits]
    assert store.leases.tell_misfits(Machines(eight, (Capacity(8.0, 2),))) == []  # another text, and no second event
    assert "no node has more than 8 CPUs and 2 GPUs" in str(store.jobs.get(job.id).waits_for)
    assert len(store.events.of(job.id)[0]) == 2
    there = Machines(eight, (Capacity(8.0, 4),))
    store.leases.tell_misfits(there)
    assert store.jobs.get(job.id).waits_for is None
    store.leases.tell_misfits(Machines(eight, (Capacity(8.0, 1),)))
    assert claim(store, there) == job.id
    assert store.jobs.get(job.id).waits_for is None
