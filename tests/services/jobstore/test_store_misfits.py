"""Jobs that ask for more than the cluster has: they wait, and hold up nobody."""

from __future__ import annotations

import pytest
from store_helpers import config

from eda_service.capacity import Capacity
from eda_service.jobstore import Job, JobStore, Status

CLUSTER = Capacity(cpus=16.0, gpus=0)
FITS = Capacity(cpus=1.1, gpus=0)
HOPELESS = Capacity(cpus=4.1, gpus=8)


def queue(store: JobStore, name: str, need: Capacity = FITS, priority: int = 50) -> Job:
    return store.create(config(name), need=need, priority=priority)[0]


def claim(store: JobStore, cluster: Capacity | None = CLUSTER, max_running: int = 1) -> str | None:
    claimed = store.claim(max_running=max_running, cluster=cluster)
    return None if claimed is None else claimed.id


@pytest.mark.parametrize("place", [0, 4, 9])
def test_of_ten_jobs_with_a_hopeless_one_nine_run_one_after_the_other(store: JobStore, place: int) -> None:
    jobs = [queue(store, f"m{n}", HOPELESS if n == place else FITS).id for n in range(10)]
    hopeless, ended = jobs[place], []
    for _ in range(9):
        started = []
        while (job_id := claim(store)) is not None:
            started.append(job_id)
        running = [job_id for job_id in started if job_id != hopeless]
        assert len(running) == 1  # max_running is 1, and the hopeless one takes no place
        store.transition(running[0], Status.SUCCEEDED, event="job_succeeded", message="m")
        ended += running
    assert ended == [job_id for job_id in jobs if job_id != hopeless]
    assert store.get(hopeless).status is Status.RUNNING


def test_one_misfit_at_a_time_waits_in_the_cluster(store: JobStore) -> None:
    first, second = (queue(store, f"m{n}", HOPELESS, priority=90).id for n in range(2))
    fits = queue(store, "fits").id
    assert [claim(store), claim(store), claim(store)] == [first, fits, None]
    store.transition(first, Status.CANCELLING, event="x", message="x")
    assert claim(store) is None
    store.transition(first, Status.CANCELLED, event="x", message="x")
    assert claim(store) == second


def test_once_the_cluster_has_grown_a_misfit_is_a_job_like_others(store: JobStore) -> None:
    first, second = (queue(store, f"m{n}", HOPELESS).id for n in range(2))
    assert (claim(store), claim(store)) == (first, None)
    grown = Capacity(cpus=16.0, gpus=8)
    assert claim(store, grown) is None  # the first one holds the only place now
    assert claim(store, grown, max_running=2) == second


def test_of_an_unknown_cluster_and_of_unknown_needs_every_job_fits(store: JobStore) -> None:
    unknown, misfit = queue(store, "unknown", Capacity(cpus=0.0, gpus=0)).id, queue(store, "m", HOPELESS).id
    assert claim(store, Capacity(cpus=0.0, gpus=0)) == unknown
    assert claim(store, None) is None
    assert claim(store, None, max_running=2) == misfit


def test_a_need_that_is_a_sum_of_fractions_fits_what_is_as_large(store: JobStore) -> None:
    job = queue(store, "m", Capacity(cpus=sum([0.1] * 10), gpus=0))
    store.tell_misfits(Capacity(cpus=0.9999999999, gpus=0))
    assert [event.type for event in store.events(job.id)[0]] == ["job_created"]


def test_a_misfit_is_told_once_with_both_numbers(store: JobStore) -> None:
    running, waiting, fits = queue(store, "a", HOPELESS), queue(store, "b", HOPELESS), queue(store, "c")
    assert claim(store) == running.id
    assert sorted(store.tell_misfits(CLUSTER)) == sorted([running.id, waiting.id])
    assert store.tell_misfits(CLUSTER) == []
    told = [event for event in store.events(waiting.id)[0] if event.type == "waiting_for_resources"]
    assert [event.level for event in told] == ["warning"]
    assert "4.1 CPUs and 8 GPUs" in told[0].message
    assert "16 CPUs and 0 GPUs" in told[0].message
    assert [event.type for event in store.events(fits.id)[0]] == ["job_created"]
    store.transition(waiting.id, Status.CANCELLED, event="x", message="x")
    assert store.tell_misfits(Capacity(cpus=0.0, gpus=0)) == [fits.id]


def test_an_adopted_job_has_its_need_too(store: JobStore) -> None:
    store.adopt("by-hand", config(), created_at=5, need=HOPELESS)
    job = queue(store, "m").id
    assert claim(store) == job
    assert (store.get("by-hand").cpus, store.get("by-hand").gpus) == (HOPELESS.cpus, HOPELESS.gpus)


def test_what_was_overruled_is_an_event_of_a_new_job_alone(store: JobStore) -> None:
    job, _ = store.create(config(), warnings=["the hub does not answer"])
    assert store.create(config(), warnings=["something else"]) == (job, False)
    told = [(event.type, event.level, event.message) for event in store.events(job.id)[0]]
    assert told[1:] == [("queued_all_the_same", "warning", "the hub does not answer")]
