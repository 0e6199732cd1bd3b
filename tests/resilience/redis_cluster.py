"""Ray as KubeRay runs the overlay `large`, without Kubernetes: the head's state in Redis, the API outside of Ray.

Machine 0 has Redis and `python -m api`, machine 1 the head, the others work. Settings are those of
cluster/kubernetes/base/settings.yaml; what KubeRay adds for `gcsFaultToleranceOptions` is added here.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import httpx
import yaml

from eda_service.client import Client
from eda_service.raycluster.node import OBJECT_STORE_BYTES, child_env
from eda_service.raycluster.token import auth_headers, ensure_token, token_path
from tests.integration.running import REPOSITORY
from tests.resilience.cluster import alive, look
from tests.resilience.network import INTERFACE, Network

API, HEAD = 0, 1
START_TIMEOUT_S = 300.0
_GCS_PORT, _DASHBOARD_PORT, _SERVE_PORT, _API_PORT, _REDIS_PORT = 6379, 8265, 8000, 8700, 6380
_SETTINGS = REPOSITORY / "cluster" / "kubernetes" / "base" / "settings.yaml"


def ray_settings() -> dict[str, str]:
    """What every Ray pod is told, but for storage."""
    maps = yaml.safe_load_all(_SETTINGS.read_text(encoding="utf-8"))
    return next(dict(each["data"]) for each in maps if each["metadata"]["name"] == "eda-ray-settings")


class RedisCluster:
    """Redis, the API, a head and workers; leave the context to take everything down.

    Args:
        network: Where.
        home: State root, which all machines share.
        redis: Root of an unpacked Redis (tests/install_redis.sh).
        env: Settings of the API.
        upstream: Machine whose Serve proxy the API asks.
        allow: Directory whose files requests may name.
    """

    def __init__(
        self, network: Network, home: Path, redis: Path, env: Mapping[str, str], *, upstream: int, allow: Path
    ) -> None:
        self.network, self.home, self._redis = network, home, redis
        self._upstream, self._allow = upstream, allow
        self._logs = home / "logs"
        self._logs.mkdir(exist_ok=True)
        self._env, self._password = dict(env), secrets.token_hex(8)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        ensure_token(home)

    def __enter__(self) -> Self:
        try:
            self._start_redis()
            self.start_head()
            self.wait(self.is_head_up, "the head's dashboard")
            workers = range(HEAD + 1, self.network.size)
            for number in workers:
                self._ray(number, [f"--address={self.network.address(HEAD)}:{_GCS_PORT}", "--num-cpus=2"])
            self.wait(lambda: self._alive() >= set(workers), "a worker")
            self._start_api()
            self.wait(self._is_api_up, "the API")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Switch everything off."""
        for number in range(HEAD, self.network.size):
            self.network.kill(number)
        for child in reversed(self._children.values()):
            child.terminate()
            try:
                child.wait(60)
            except subprocess.TimeoutExpired:
                child.kill()

    @property
    def url(self) -> str:
        """Of the API."""
        return f"http://127.0.0.1:{_API_PORT}"

    def start_head(self) -> None:
        """Start the head; the second time it finds the first one's state."""
        state = {
            "RAY_REDIS_ADDRESS": f"{self.network.address(API)}:{_REDIS_PORT}",
            "RAY_external_storage_namespace": "eda",
        }
        options = ["--head", f"--port={_GCS_PORT}", "--dashboard-host=0.0.0.0", "--num-cpus=0"]
        self._ray(HEAD, [*options, f"--redis-password={self._password}"], state)

    def kill_head(self) -> None:
        """Switch the head's machine off: GCS, dashboard, Serve's controller and the head's proxy."""
        self.network.kill(HEAD)
        self._children.pop(f"ray-{HEAD}").wait(30)

    def is_head_up(self) -> bool:
        """Whether the dashboard takes jobs."""
        url = f"{self._dashboard_url}/api/jobs/"
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(url, headers=auth_headers(token_path(self.home)), timeout=10).is_success
        return False

    def wait(self, check: Callable[[], bool], what: str) -> float:
        """Wait for something; returns how long that took.

        Raises:
            AssertionError: It takes too long, or a process of the cluster has ended.
        """
        began = time.monotonic()
        while not check():
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise AssertionError(f"{name} has ended while {what} was awaited; logs in {self._logs}")
            if time.monotonic() - began > START_TIMEOUT_S:
                raise AssertionError(f"{what} is not there after {START_TIMEOUT_S:.0f} s; logs in {self._logs}")
            time.sleep(0.3)
        return time.monotonic() - began

    def pids(self, role: str) -> dict[int, int]:
        """Processes of a role (`cluster.ROLES`) and the machine of each."""
        return look(self.network)[role]

    @property
    def _dashboard_url(self) -> str:
        return f"http://{self.network.address(HEAD)}:{_DASHBOARD_PORT}"

    def _alive(self) -> set[int]:
        return alive(self.network, self._dashboard_url, self.home) or set()

    def _is_api_up(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return bool(httpx.get(f"{self.url}/health", timeout=10).json()["ray_reachable"])
        return False

    def _start_redis(self) -> None:
        options = {
            "bind": self.network.address(API),
            "port": str(_REDIS_PORT),
            "requirepass": self._password,
            "save": "",
            "appendonly": "no",
            "dir": str(self.home),
        }
        command = [str(self._redis / "usr/bin/redis-server"), *(f for k, v in options.items() for f in (f"--{k}", v))]
        libraries = next((self._redis / "usr/lib").glob("*-linux-gnu"))
        self._start("redis", command, {**os.environ, "LD_LIBRARY_PATH": str(libraries)})

    def _start_api(self) -> None:
        env = {
            **child_env(self.home),
            "EDA_PORT": str(_API_PORT),
            "EDA_RAY_DASHBOARD_URL": self._dashboard_url,
            "EDA_SERVE_HOST": "0.0.0.0",
            "EDA_SERVE_PORT": str(_SERVE_PORT),
            "EDA_SERVE_UPSTREAM": f"http://{self.network.address(self._upstream)}:{_SERVE_PORT}",
            "EDA_LOCAL_ROOTS": str(self._allow),
            **self._env,
        }
        self._start("api", [sys.executable, "-m", "api"], env)

    def _ray(self, number: int, options: list[str], env: Mapping[str, str] | None = None) -> None:
        own = {
            **child_env(self.home),
            **ray_settings(),
            "OMP_NUM_THREADS": "1",
            "DS_ACCELERATOR": "cpu",
            "GLOO_SOCKET_IFNAME": INTERFACE,  # the host's name, which is not a pod's, stands for 127.0.0.1
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # KubeRay's, where the head's state is in Redis
            **(env or {}),
        }
        fixed = [f"--node-ip-address={self.network.address(number)}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *fixed, *options]
        self._start(f"ray-{number}", self.network.command(number, command), own)

    def _start(self, name: str, command: list[str], env: Mapping[str, str]) -> None:
        with (self._logs / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(command, env=dict(env), cwd=REPOSITORY, stdout=log, stderr=log)


def client_of(cluster: RedisCluster) -> Client:
    """A client that outlasts a head."""
    return Client(cluster.url, max_retries=20)
