"""A service on the first machine of a network and nodes on the others, as a user starts them: `eda up`, `eda join`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx

from eda_service.raycluster.token import auth_headers, token_path
from tests.integration.running import REPOSITORY, Service
from tests.resilience.network import Network

JOIN_TIMEOUT_S = 600.0
ROLES = {
    "driver": "python -m jobs.adapt --job-id",
    "generation_actor": "ray::MapWorker",
    "train_worker": "ray::RayTrainWorker",
    "replica": "ray::ServeReplica",
}


def look(network: Network) -> dict[str, dict[int, int]]:
    """By role the machine of each process id, from the processes themselves."""
    found: dict[str, dict[int, int]] = {role: {} for role in ROLES}
    for number in range(network.size):
        for pid in network.pids(number):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                for role, start in ROLES.items():
                    if line.startswith(start):
                        found[role][pid] = number
    return found


def alive(network: Network, dashboard_url: str, home: Path) -> set[int] | None:
    """Machines that Ray counts as nodes; None when the dashboard is too busy to say."""
    try:
        answer = httpx.get(f"{dashboard_url}/api/v0/nodes", headers=auth_headers(token_path(home)), timeout=30)
        nodes = answer.raise_for_status().json()["data"]["result"]["result"]
    except httpx.HTTPError:
        return None
    return {network.number(node["node_ip"]) for node in nodes if node["state"] == "ALIVE"}


class Cluster:
    """Runs on the network's first machine, which offers no processors: work goes to the others.

    Args:
        network: Where.
        home: State root, which all machines share.
        env: Settings of the service.
        members: Machines that join at the start.
        allow: Directory whose files requests may name.
    """

    def __init__(
        self, network: Network, home: Path, env: Mapping[str, str], *, members: Sequence[int], allow: Path
    ) -> None:
        self.network, self.home, self._members = network, home, members
        self._logs = home / "logs"
        options = ["--node-ip", network.address(0), "--num-cpus", "0"]
        self.service = Service(home, env, allow=allow, options=options)
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.service.__enter__()
        try:
            for number in self._members:
                self.join(number)
            self.wait_joined(self._members)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch the machines off and stop the service."""
        for number, child in self._children.items():
            self.network.kill(number)
            child.wait(30)
        self.service.stop()

    @property
    def url(self) -> str:
        """Of the API."""
        return str(self.service.up_file["api_url"])

    def join(self, number: int) -> None:
        """`eda join` on a machine."""
        address = str(self.service.up_file["ray_address"])
        command = [sys.executable, "-m", "eda_service.cli.main", "join", address, "--home", str(self.home)]
        with (self._logs / f"join-{number}.log").open("ab") as log:
            self._children[number] = subprocess.Popen(
                self.network.command(number, [*command, "--num-cpus", "1"]),
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int) -> None:
        """Switch a machine off."""
        self.network.kill(number)
        self._children.pop(number).wait(30)

    def alive(self) -> set[int] | None:
        """Machines that Ray counts as nodes; None when the dashboard is too busy to say."""
        return alive(self.network, str(self.service.up_file["dashboard_url"]), self.home)

    def wait_joined(self, numbers: Sequence[int]) -> float:
        """Wait until these machines are nodes; returns how long that took."""
        began = time.monotonic()
        while (found := self.alive()) is None or not found >= set(numbers):
            if time.monotonic() - began > JOIN_TIMEOUT_S:
                raise AssertionError(f"nodes are {found}, {sorted(numbers)} are wanted; logs in {self._logs}")
            time.sleep(0.5)
        return time.monotonic() - began

    def where(self, role: str) -> list[int]:
        """The machine of each process of a role, by the processes themselves and not by Ray's word."""
        return self.look()[role]

    def look(self) -> dict[str, list[int]]:
        """The same for every role."""
        return {role: list(found.values()) for role, found in look(self.network).items()}
