"""Machines made of network namespaces: each has an interface and an address of its own, and a cable that can be pulled.

    namespace eda-<id>-0    10.<x>.<y>.10  the head, in which the program itself runs
    namespace eda-<id>-1    10.<x>.<y>.11  and so on, all on one bridge in the host's namespace

Each but the head has process ids and a /tmp of its own too: Ray looks for the nodes of its machine among the processes.
What they share is the file system, as machines with an NFS mount would, and the processor. Needs root, iproute2 and
util-linux.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Self

INTERFACE = "eth0"
_HEAD = 0
_VARIABLE = "EDA_NETWORK"


def ip(*arguments: str) -> str:
    """Run `ip`."""
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def why_not() -> str | None:
    """Why namespaces cannot be made here; None: they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip`; tests/resilience/install.sh installs iproute2"
    name = f"eda-{secrets.token_hex(3)}"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except RuntimeError as error:
        return f"the kernel refuses: {error}"
    return None


class Network:
    """A bridge with some machines on it; leave the context to take everything down.

    Args:
        size: Machines, the head included.
        key: Four hex digits that its names and addresses are made of; None: new ones.
    """

    def __init__(self, size: int, key: str | None = None) -> None:
        self.size = size
        self._id = key or secrets.token_hex(2)
        # A network of its own per run, in the range for private use that few machines are in.
        self._prefix = f"10.{200 + int(self._id[0], 16)}.{int(self._id[1:3], 16)}"
        self._bridge = f"edabr{self._id}"

    def __enter__(self) -> Self:
        try:
            ip("link", "add", self._bridge, "type", "bridge")
            ip("addr", "add", f"{self._prefix}.1/24", "dev", self._bridge)
            ip("link", "set", self._bridge, "up")
            for number in range(self.size):
                self._add(number)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs in the namespaces and remove them with the bridge."""
        for number in range(self.size):
            with contextlib.suppress(RuntimeError):
                self.kill(number)
            with contextlib.suppress(RuntimeError):
                ip("netns", "del", self.name(number))  # its interface goes with it
        with contextlib.suppress(RuntimeError):
            ip("link", "del", self._bridge)

    def name(self, number: int) -> str:
        """Of a machine's namespace."""
        return f"eda-{self._id}-{number}"

    def address(self, number: int) -> str:
        """Of a machine."""
        return f"{self._prefix}.{10 + number}"

    def number(self, address: str) -> int:
        """The machine of an address."""
        return int(address.rpartition(".")[2]) - 10

    def command(self, number: int, command: Sequence[str]) -> list[str]:
        """A command as it runs on a machine."""
        inside = ["ip", "netns", "exec", self.name(number)]
        if number == _HEAD:
            return [*inside, *command]
        own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*inside, *own, "sh", "-c", 'mount -t tmpfs tmpfs /tmp && exec "$@"', "sh", *command]

    def cut(self, number: int) -> None:
        """Pull a machine's cable: its processes go on and reach nobody."""
        ip("-n", self.name(number), "link", "set", INTERFACE, "down")

    def mend(self, number: int) -> None:
        """Put the cable back."""
        ip("-n", self.name(number), "link", "set", INTERFACE, "up")

    def pids(self, number: int) -> list[int]:
        """Processes of a machine, but for this one."""
        return [int(pid) for pid in ip("netns", "pids", self.name(number)).split() if int(pid) != os.getpid()]

    def kill(self, number: int) -> int:
        """Switch a machine off: SIGKILL for every process on it; returns how many there were."""
        killed = 0
        while pids := self.pids(number):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed

    def _add(self, number: int) -> None:
        name, outside = self.name(number), f"eda{self._id}v{number}"
        ip("netns", "add", name)
        ip("link", "add", outside, "type", "veth", "peer", "name", INTERFACE, "netns", name)
        ip("link", "set", outside, "master", self._bridge, "up")
        ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", INTERFACE)
        ip("-n", name, "link", "set", INTERFACE, "up")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "route", "add", "default", "via", f"{self._prefix}.1")  # Ray asks which way packets would leave


def run_on_head(network: Network, command: Sequence[str]) -> int:
    """Run a Python program on the first machine; there `network_here` finds the network. Returns its exit code."""
    env = {**os.environ, _VARIABLE: f"{network.size}:{network._id}"}
    return subprocess.run(network.command(_HEAD, [sys.executable, *command]), check=False, env=env).returncode


def on_head(size: int, command: Sequence[str]) -> Network:
    """The network whose head this process runs on. Elsewhere: make one, run a Python program on its head, and exit as
    that does.
    """
    network = network_here()
    if network is not None:
        return network
    if (reason := why_not()) is not None:
        raise SystemExit(reason)
    with Network(size) as made:
        raise SystemExit(run_on_head(made, command))


def network_here() -> Network | None:
    """The network whose head this process runs on, if it does."""
    size, _, key = os.environ.get(_VARIABLE, "").partition(":")
    return Network(int(size), key) if key else None
