"""The process behind `eda join`: keeps one node in a cluster whose head is elsewhere.

A node that Ray has given up (its machine was cut off, or the head was restarted) ends by itself and joins again.
Processes of a killed one are found in `<home>/nodes/<address>.json` and stopped.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import IO, TypedDict

from eda_service.private_files import private_home
from eda_service.raycluster import processes
from eda_service.raycluster.node import NUM_LOGICAL_CPUS, JoinedNode
from eda_service.raycluster.node_directory import remove_node_directory
from eda_service.raycluster.supervisor import Backoff, take_lock
from eda_service.storage.files import write_json

logger = logging.getLogger(__name__)


class _NodeFile(TypedDict):
    """The content of a node's file."""

    pid: int
    mark: str
    ray_temp_dir: str


class Member:
    """Keeps one node in the cluster.

    Args:
        home: The service's state root, on shared storage.
        address: Address of the head, as `host:port`.
        node_ip: Address of this machine.
        num_cpus: Number of logical CPUs to offer; None: 8, or the number of cores if that is larger.
    """

    def __init__(self, home: Path, *, address: str, node_ip: str, num_cpus: int | None) -> None:
        self._home = home
        self._path = home / "nodes" / f"{node_ip}.json"
        self._backoff, self._stopping = Backoff(), threading.Event()
        self._lock: IO[str] | None = None
        self._node = JoinedNode(
            home,
            home / "logs" / f"node-{node_ip}.log",
            head_address=address,
            node_ip=node_ip,
            num_cpus=num_cpus or max(NUM_LOGICAL_CPUS, os.cpu_count() or 1),
        )

    def start(self) -> None:
        """Join the cluster, after stopping processes that a killed `eda join` of this address left.

        Raises:
            InputError: The home belongs to no service, the address is not of this machine, or the address has joined
                already.
        """
        self._node.require_home()  # before anything of a directory that is no home is changed
        private_home(self._home)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self._path.with_suffix(".lock"), f"{self._path.stem} has joined already")
        self._stop_leftovers()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        self._node.start()
        node_file: _NodeFile = {
            "pid": os.getpid(),
            "mark": self._node.mark,
            "ray_temp_dir": str(self._node.directory.path),
        }
        write_json(self._path, node_file)

    def run(self) -> None:
        """Start the node again whenever it ends, until a signal comes."""
        while not self._stopping.wait(0.5):
            if not self._node.is_alive() and self._backoff.is_due(time.monotonic()):
                logger.warning("the node has left the cluster; joining again")
                self._node.start()

    def stop(self) -> None:
        """Leave the cluster; the lock is released last."""
        self._node.stop()
        if self._lock is not None:
            self._path.unlink(missing_ok=True)
            self._lock.close()

    def _stop_leftovers(self) -> None:
        if not self._path.exists():
            return
        node_file: _NodeFile = json.loads(self._path.read_text(encoding="utf-8"))
        processes.kill_marked(str(node_file["mark"]))
        remove_node_directory(str(node_file["ray_temp_dir"]))

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        logger.info("%s: leaving", signal.Signals(number).name)
        self._stopping.set()
