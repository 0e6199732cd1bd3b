"""A private Ray head as a child process: own ports, own directory, stopped with everything it started.

It listens on loopback unless it has an address that other nodes can join (`node.JoinedNode`); its dashboard always
listens on loopback, and the cluster's token protects the rest.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx

from eda_service.errors import ResourceError
from eda_service.raycluster import processes
from eda_service.raycluster.node import (
    LOOPBACK,
    NUM_LOGICAL_CPUS,
    child_env,
    node_env,
    start_command,
)
from eda_service.raycluster.node_directory import NodeDirectory
from eda_service.raycluster.token import auth_headers, ensure_token, token_path

_STOP_TIMEOUT_S = 10.0
_READY_TIMEOUT_S = 10.0  # on a busy machine the first answer takes seconds


class RayHead:
    """One Ray head on this machine. Its ports stay the same over restarts, so that clients keep working.

    Args:
        home: State root, which jobs get as EDA_HOME.
        log_path: File for the head's own output.
        node_ip: Address at which other nodes join it.
        port: Port at which other nodes join it; None: a free one.
        num_cpus: Number of logical CPUs it offers; 0 leaves all work to the nodes that join.
        local_roots: Directories whose files requests may name, for jobs and replicas that open them.
    """

    def __init__(
        self,
        home: Path,
        log_path: Path,
        *,
        node_ip: str = LOOPBACK,
        port: int | None = None,
        num_cpus: int = NUM_LOGICAL_CPUS,
        local_roots: Sequence[Path] = (),
    ) -> None:
        self._home, self._log_path = home, log_path
        self._node_ip, self._num_cpus = node_ip, num_cpus
        self._local_roots = os.pathsep.join(str(root) for root in local_roots)
        free = processes.free_ports(3, exclude=() if port is None else (port,))
        self._gcs_port, self._dashboard_port, self._client_port = port or free[0], free[1], free[2]
        self._child: subprocess.Popen[bytes] | None = None
        self.mark = secrets.token_hex(16)
        self.directory = NodeDirectory()

    @property
    def address(self) -> str:
        """The argument for `ray.init(address=...)` and `eda join`."""
        return f"{self._node_ip}:{self._gcs_port}"

    @property
    def is_alone(self) -> bool:
        """Whether the head listens on loopback, where no other node can join it."""
        return self._node_ip == LOOPBACK

    @property
    def dashboard_url(self) -> str:
        """Base URL of the Jobs and Serve REST APIs."""
        return f"http://{LOOPBACK}:{self._dashboard_port}"

    @property
    def pid(self) -> int | None:
        """Process id of `ray start --block`, or None before the first start."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the head, after removing processes and files that an earlier one left.

        Raises:
            InputError: No interface of this machine has the node's address.
        """
        env = {
            **child_env(self._home),
            **node_env(self._node_ip, alone=self.is_alone),
            **self.directory.env,
            "EDA_LOCAL_ROOTS": self._local_roots,
        }
        env.pop("EDA_SECRETS_KEY", None)  # jobs inherit it, and nothing in them opens a secret
        ensure_token(self._home)
        processes.kill_marked(self.mark, sessions=() if self._child is None else (self._child.pid,))
        self._child = processes.start(self._command(), env=env, mark=self.mark, log_path=self._log_path)

    def is_alive(self) -> bool:
        """Whether the head's process runs."""
        return self._child is not None and self._child.poll() is None

    def is_ready(self) -> bool:
        """Whether the dashboard accepts jobs.

        Raises:
            ResourceError: The head has ended.
        """
        if not self.is_alive():
            raise ResourceError(f"the Ray head did not start; its output is in {self._log_path}")
        try:
            # The job list also needs the dashboard's agent, which starts some seconds after its HTTP server.
            url, headers = f"{self.dashboard_url}/api/jobs/", auth_headers(token_path(self._home))
            return httpx.get(url, headers=headers, timeout=_READY_TIMEOUT_S, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """Stop the head and every process it started, and remove its directory."""
        if self._child is not None:
            processes.stop(self._child, mark=self.mark, timeout_s=_STOP_TIMEOUT_S)
        self.directory.remove()

    def _command(self) -> list[str]:
        options = {
            "port": self._gcs_port,
            "node-ip-address": self._node_ip,
            "dashboard-host": LOOPBACK,
            "dashboard-port": self._dashboard_port,
            "ray-client-server-port": self._client_port,
            "num-cpus": self._num_cpus,
            "temp-dir": self.directory.ray,
        }
        return start_command(options, flags=["head"], taken=[self._gcs_port, self._dashboard_port, self._client_port])
