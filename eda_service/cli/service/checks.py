"""What `eda doctor` looks at. Each check says what it found and, where that is not well, the next step."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
from packaging.requirements import Requirement

from eda_service import __version__
from eda_service.cli.console import api_key, user_defaults
from eda_service.cli.defaults import GENERAL, DefaultsFile
from eda_service.client import ApiError, Client, ServiceUnreachableError
from eda_service.environment import Environment
from eda_service.errors import EdaError
from eda_service.formatting import size
from eda_service.raycluster.up_file import read_up
from eda_service.storage.objects import open_storage, storage_url

_PACKAGE = "eda-service"
_PYTHONS = ((3, 11), (3, 13))
_LEAST_FREE_BYTES, _EASY_FREE_BYTES = 1_000_000_000, 10_000_000_000
_HUB = "https://huggingface.co"
_HUB_TIMEOUT_S = 4.0
_SERVICE_TIMEOUT_S = 5.0
_SMI_TIMEOUT_S = 10.0


class CheckState(StrEnum):
    """How a check came out; `warn` is worth knowing and stops nobody."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        found: What is there.
        next_step: What to do about it; empty where nothing is to be done.
    """

    name: str
    state: CheckState
    found: str
    next_step: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def all_checks(home: Path, *, url: str | None, ports: Sequence[int]) -> list[Check]:
    """Look at everything, quick things first.

    Args:
        home: State root.
        url: Of the service; None: the one that `eda up` wrote down for this home.
        ports: That `eda up` would listen on.
    """
    up, defaults = read_up(home), user_defaults()
    where = url or (None if up is None else str(up["api_url"]))
    health = None if where is None else _health(where)
    service = check_service(where, health, home)
    return [
        check_python(sys.version_info[:2]),
        check_packages(_requirements()),
        check_home(home),
        check_defaults(defaults),
        check_disk(shutil.disk_usage(_existing(home)).free, home),
        *check_storage(),
        check_token(home / "ray" / "auth_token"),
        *(check_port(port, is_ours=where is not None and service.state is not CheckState.FAIL) for port in ports),
        check_gpu(),
        check_embedded_model(),
        check_hub(os.environ.get("HF_ENDPOINT") or _HUB),
        service,
        check_ray(health, home),
        check_key(None if health is None else where),
    ]


def check_python(version: tuple[int, int]) -> Check:
    """The interpreter is one that the package is made for."""
    text = f"Python {version[0]}.{version[1]}, eda-service {__version__}"
    if _PYTHONS[0] <= version < _PYTHONS[1]:
        return Check("python", CheckState.OK, text)
    return Check("python", CheckState.FAIL, text, "use Python 3.11 or 3.12: python3.11 -m venv .venv")


def check_packages(requirements: Sequence[str]) -> Check:
    """Every library is installed, in a version that was allowed for."""
    missing, other = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            other.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
    again = "install the pinned versions: pip install --constraint constraints.txt --editable ."
    if missing:
        return Check("packages", CheckState.FAIL, f"not installed: {', '.join(missing)}", again)
    if other:
        return Check("packages", CheckState.WARN, f"other versions than tested: {', '.join(other)}", again)
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("ray", "torch", "transformers", "deepspeed"))
    return Check("packages", CheckState.OK, shown)


def _requirements() -> list[str]:
    """What the installed package asks for; itself, where it is not installed."""
    try:
        return metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return [_PACKAGE]


def check_home(home: Path) -> Check:
    """State can be written."""
    place = _existing(home)
    if os.access(place, os.W_OK | os.X_OK):
        return Check("home", CheckState.OK, str(home))
    return Check(
        "home", CheckState.FAIL, f"{place} cannot be written", "set EDA_HOME to a directory of yours, or use --home"
    )


def check_defaults(defaults: DefaultsFile) -> Check:
    """Which file the user's defaults come from."""
    if not defaults.is_there:
        return Check("defaults", CheckState.OK, f"none; {defaults.path} would be read")
    general = [name for name in GENERAL if getattr(defaults, name) is not None]
    said = ", ".join([*general, *(f"[{name}]" for name in defaults.commands)]) or "nothing"
    return Check("defaults", CheckState.OK, f"{defaults.path} sets {said}")


def check_disk(free_bytes: int, home: Path) -> Check:
    """There is room for jobs."""
    text = f"{size(free_bytes)} free under {home}"
    step = "free some, or set EDA_HOME to a larger disk; `eda adapt ... --dry-run` says what a job needs"
    if free_bytes < _LEAST_FREE_BYTES:
        return Check("disk", CheckState.FAIL, text, step)
    return (
        Check("disk", CheckState.WARN, text, step)
        if free_bytes < _EASY_FREE_BYTES
        else Check("disk", CheckState.OK, text)
    )


def check_storage() -> list[Check]:
    """Storage by URL, where it is used, takes what is written and refuses to create what is there."""
    key, url = f"checks/{secrets.token_hex(8)}", storage_url()
    if not url:
        return []
    try:
        storage = open_storage(url)
        created, again = storage.create(key, b""), storage.create(key, b"")
        storage.delete([key])
    except EdaError as error:
        return [Check("storage", CheckState.FAIL, error.message, "look at EDA_STORAGE, the bucket and its credentials")]
    if created and not again:
        return [Check("storage", CheckState.OK, storage.url)]
    text = f"{storage.url} creates what is there already"
    return [Check("storage", CheckState.FAIL, text, "use a store that knows conditional writes (If-None-Match)")]


def check_token(path: Path) -> Check:
    """Nobody else can read the cluster's token."""
    if not path.exists():
        return Check("ray token", CheckState.OK, "none yet; `eda up` makes one")
    if path.stat().st_mode & 0o077:
        return Check("ray token", CheckState.FAIL, f"others may read {path}", f"chmod 600 {path}")
    return Check("ray token", CheckState.OK, "readable by you alone")


def check_port(port: int, *, is_ours: bool) -> Check:
    """A port is free, or our own service has it."""
    name = f"port {port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            if is_ours:
                return Check(name, CheckState.OK, "taken while a service of this home runs")
            return Check(name, CheckState.FAIL, "taken by something else", "eda up --port N --serve-port M")
    return Check(name, CheckState.OK, "free")


def check_gpu() -> Check:
    """Whether there is a GPU, and torch can use it."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
        return Check("gpu", CheckState.OK, ", ".join(names))
    if shutil.which("nvidia-smi") is None:
        return Check("gpu", CheckState.OK, f"none; jobs run on {os.cpu_count()} processor cores")
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False
        )
        found = listed.stdout.strip() or listed.stderr.strip() or "nvidia-smi says nothing"
    except (OSError, subprocess.TimeoutExpired) as error:
        found = f"nvidia-smi does not answer ({type(error).__name__})"
    text = f"torch {torch.__version__} uses no GPU here, though: {found.splitlines()[0][:200]}"
    return Check(
        "gpu", CheckState.WARN, text, "install a CUDA build of torch that fits the driver: https://pytorch.org"
    )


def check_embedded_model() -> Check:
    """The shipped targets' base is on this machine."""
    from eda_service.targets.embedded import EMBEDDED, model_cache

    missing = [name for name in EMBEDDED if not (model_cache() / "models" / name / "SOURCE.json").exists()]
    if not missing:
        return Check("shipped model", CheckState.OK, f"{', '.join(EMBEDDED)} in {model_cache()}")
    step = "; ".join(f"eda models fetch {name}" for name in missing)
    return Check("shipped model", CheckState.WARN, f"not fetched yet: {', '.join(missing)}", step)


def check_hub(endpoint: str) -> Check:
    """Whether models of the hub can be had."""
    step = "use shipped names and local directories, or set HF_ENDPOINT to a mirror"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return Check("model hub", CheckState.WARN, "HF_HUB_OFFLINE is set", step)
    try:
        status = httpx.head(endpoint, timeout=_HUB_TIMEOUT_S, follow_redirects=True).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Check("model hub", CheckState.WARN, f"{endpoint} does not answer ({type(error).__name__})", step)
    token = "with a token" if os.environ.get("HF_TOKEN") else "without a token: public models only"
    state = CheckState.OK if status < 500 else CheckState.WARN
    return Check("model hub", state, f"{endpoint} answers, {token}", "" if state is CheckState.OK else step)


def check_service(url: str | None, health: dict[str, Any] | None, home: Path) -> Check:
    """The API answers and is well."""
    if url is None:
        return Check("service", CheckState.WARN, f"none runs for {home}", "eda up")
    if health is None:
        return Check(
            "service", CheckState.FAIL, f"{url} does not answer", f"eda up; what happened is in {home}/logs/api.log"
        )
    version = health.get("version")
    text = f"{url} is {health['status']}" + (f", version {version}" if version else "")
    if health["status"] != "ok":
        return Check("service", CheckState.WARN, text, f"see the checks below, and {home}/logs")
    return Check("service", CheckState.OK, text)


def check_ray(health: dict[str, Any] | None, home: Path) -> Check:
    """The service reaches its cluster."""
    if health is None:
        return Check("ray", CheckState.OK, f"Ray {metadata.version('ray')} is installed; `eda up` starts a head")
    if health.get("ray_reachable") is None:
        return Check(
            "ray", CheckState.WARN, "the service says it to who has a key that reads jobs", "export EDA_API_KEY=eda_..."
        )
    if health["ray_reachable"]:
        return Check("ray", CheckState.OK, f"answers; the dispatcher looked {health['dispatcher_lag_s']:.0f} s ago")
    step = f"jobs wait until it does; the head's own output is in {home}/logs/ray_head.log"
    return Check("ray", CheckState.FAIL, "the service does not reach Ray", step)


def check_key(url: str | None) -> Check:
    """The service takes the key of this environment."""
    given = "EDA_API_KEY" if Environment.read().api_key else "api_key_file" if api_key() else "no key"
    if url is None:
        return Check("api key", CheckState.WARN, f"{given}; not tried, as no service answers", "eda up")
    try:
        with _client(url) as client:
            client.page(limit=1)
    except ApiError as error:
        if error.status == httpx.codes.FORBIDDEN:
            return Check("api key", CheckState.OK, f"{given} is valid, without the scope jobs:read")
        step = "export EDA_API_KEY=eda_...; `eda keys create NAME` makes a key on the service's machine"
        return Check("api key", CheckState.FAIL, f"{given} was refused: {error.message}", step)
    except EdaError as error:
        return Check("api key", CheckState.FAIL, error.message, "check EDA_API_KEY and --url")
    return Check("api key", CheckState.OK, f"{given} is what the service wants")


def _health(url: str) -> dict[str, Any] | None:
    try:
        with _client(url) as client:
            return client.health()
    except (ServiceUnreachableError, ApiError):
        return None


def _client(url: str) -> Client:
    return Client(url, api_key=api_key(), timeout_s=_SERVICE_TIMEOUT_S, max_retries=0)


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    return next(each for each in (path, *path.parents) if each.exists())
