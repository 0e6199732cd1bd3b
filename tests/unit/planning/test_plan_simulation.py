"""The simulation against queueing theory, and what it says when something is short."""

from __future__ import annotations

import math

import pytest

from eda_service.errors import InputError
from eda_service.planning.constants import DEVICES
from eda_service.planning.plan import Plan
from eda_service.planning.simulate import DAY_S, SimulatedLoad, jobs_per_day, quantile, simulate
from eda_service.planning.stage_plan import StagePlan

SERVICE_S = 600.0
NUM_JOBS = 30_000


def stage(name: str, devices: int, seconds: float, disk_bytes: float = 0.0) -> StagePlan:
    return StagePlan(name, devices, seconds, 0.0, 0.0, disk_bytes, 0.0, 0.0, 0.0)


def one_stage(devices: int = 1, disk_bytes: float = 0.0) -> Plan:
    """All time is in one stage, so the pool is a queue with servers of fixed service time."""
    stages = (stage("generate", devices, SERVICE_S, disk_bytes), stage("select", 0, 0.0), stage("train", 0, 0.0))
    return Plan(DEVICES["h100"], stages, ())


def erlang_c_wait(servers: int, busy: float) -> float:
    """Mean wait of M/M/c in service times."""
    offered = servers * busy
    last = offered**servers / math.factorial(servers) / (1 - busy)
    waits = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    return waits / (servers * (1 - busy))


def fixed_service_wait(servers: int, busy: float) -> float:
    """Mean wait of M/D/c in service times: exact for one server (Pollaczek-Khinchine), else Cosmetatos (1975)."""
    more = (1 - busy) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * busy * servers)
    return 0.5 * (1 + more) * erlang_c_wait(servers, busy)


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.5), (1, 0.8), (4, 0.8)])
def test_waits_are_those_of_a_queue_with_fixed_service_time(servers: int, busy: float) -> None:
    rate = busy * servers / SERVICE_S * DAY_S
    found = simulate(one_stage(), SimulatedLoad(rate, servers, days=NUM_JOBS / rate))
    wait_s = sum(each.mean_wait_s for each in found.stages)
    assert wait_s == pytest.approx(fixed_service_wait(servers, busy) * SERVICE_S, rel=0.08)
    assert found.utilisation == pytest.approx(busy, rel=0.02)
    assert not found.saturated


def test_one_server_is_pollaczek_khinchine() -> None:
    assert fixed_service_wait(1, 0.8) == pytest.approx(0.8 / (2 * 0.2))


def test_gangs_are_queues_of_gangs() -> None:
    """Eight devices that jobs take four at a time are two servers."""
    pairs = simulate(one_stage(devices=4), SimulatedLoad(200.0, 8, days=20))
    alone = simulate(one_stage(devices=1), SimulatedLoad(200.0, 2, days=20))
    assert pairs.wait_p99_s == pytest.approx(alone.wait_p99_s)
    assert pairs.utilisation == pytest.approx(alone.utilisation)


def test_the_bottleneck_moves_with_the_load() -> None:
    quiet = simulate(one_stage(), SimulatedLoad(10.0, 4))
    assert (quiet.bottleneck, quiet.wait_p50_s) == ("generate", 0.0)
    full = simulate(one_stage(), SimulatedLoad(1000.0, 4, days=5))
    assert (full.bottleneck, full.saturated) == ("devices", True)
    assert full.most_per_day == 4 * 144
    assert full.utilisation == pytest.approx(1.0, rel=0.02)
    assert simulate(one_stage(), SimulatedLoad(1000.0, 4, max_running=2, days=5)).bottleneck == "max_running"


def test_disk_that_holds_two_jobs_lets_two_run() -> None:
    scarce = SimulatedLoad(1000.0, 4, disk_bytes=2.5e12, days=5)
    plan = one_stage(disk_bytes=1e12)
    assert jobs_per_day(plan, scarce)["disk"] == 2 * 144
    found = simulate(plan, scarce)
    assert found.bottleneck == "disk"
    assert found.utilisation == pytest.approx(0.5, rel=0.02)


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match="takes 8 devices and the pool has 4"):
        simulate(one_stage(devices=8), SimulatedLoad(1.0, 4))
    with pytest.raises(InputError, match="keeps 1000 GB of hidden states and there are 500 GB"):
        simulate(one_stage(disk_bytes=1e12), SimulatedLoad(1.0, 4, disk_bytes=5e11))
    with pytest.raises(InputError, match=r"no job ended in 0\.001 simulated days"):
        simulate(one_stage(), SimulatedLoad(1.0, 4, days=0.001))


def test_quantiles_are_values_that_were_seen() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.99) == 4.0
    assert quantile([7.0], 0.5) == 7.0
