"""Ports and processes of our own, on this machine as it is."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from eda_service.raycluster import processes

pytestmark = pytest.mark.slow


def test_ports_differ_and_can_be_listened_on() -> None:
    ports = processes.free_ports(50)
    assert len(set(ports)) == 50
    assert not set(processes.free_ports(20, exclude=ports)) & set(ports)
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize(
    "sleeper",
    [
        "import time; time.sleep(60)",
        "import ray, time; ray._raylet.setproctitle('ray::' + 'x' * 400); time.sleep(60)",
    ],
)
def test_a_marked_process_and_its_child_are_stopped(sleeper: str) -> None:
    """A child in a session of its own is found too, also when a title was written over its environment's start."""
    start = f"subprocess.Popen([sys.executable, '-c', {sleeper!r}], start_new_session=True).wait()"
    code = f"import subprocess, sys; {start}"
    mark = f"test-{time.time_ns()}"
    env = {processes.MARK: mark}
    parent = subprocess.Popen([sys.executable, "-c", code], env=env, start_new_session=True)
    deadline = time.monotonic() + 20
    while len(processes.marked(mark)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(3)  # the title is set by now
    pids = [process.pid for process in processes.marked(mark)]
    processes.stop(parent, mark=mark, timeout_s=1)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


@pytest.mark.parametrize(("own_session", "orphaned"), [(False, False), (False, True), (True, False)])
def test_who_wrote_a_title_over_his_mark_is_found_by_session_or_parents(own_session: bool, orphaned: bool) -> None:
    """As Ray's agents and the parts of its dashboard do; one with neither mark, session nor parents is nobody's."""
    hidden = (
        "import ray, time; ray._raylet.setproctitle('ray::' + 'x' * 9000); print('set', flush=True); time.sleep(60)"
    )
    child = f"subprocess.Popen([sys.executable, '-c', {hidden!r}], start_new_session={own_session})"
    code = f"import subprocess, sys, time; child = {child}; print(child.pid, flush=True); time.sleep(60)"
    mark = f"test-{time.time_ns()}"
    env = {processes.MARK: mark}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env=env, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert parent.stdout.readline() == "set\n"
    assert mark.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    if orphaned:
        parent.kill()
        parent.wait()
        assert processes.marked(mark) == []
        assert [each.pid for each in processes.marked(mark, {parent.pid})] == [pid]
    else:
        assert pid in [each.pid for each in processes.marked(mark)]
    processes.stop(parent, mark=mark, timeout_s=1)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    parent.stdout.close()
