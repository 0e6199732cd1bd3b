"""Facts about an id from the model hub and its cache on this machine, without weights: whether it exists and is
readable.

Three requests of the hub's REST API are made, with the endpoint and the token of `huggingface_hub`: `/api/models/ID`
(or `datasets`), `/api/models/ID/auth-check` if access needs permission, and `config.json`. Its own client has no time
limit for some of them. Answers are remembered, so that a submit seldom waits; a failure to answer is remembered too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import httpx

from eda_service.errors import ResourceError
from eda_service.storage.inputs import bounded_json
from eda_service.targets.files.resolve import HUB_TIMEOUT_S

Kind = Literal["model", "dataset"]

_FOUND_S, _MISSING_S, _AWAY_S = 600.0, 60.0, 30.0
_MAX_REMEMBERED = 1024
_MAX_CONFIG_BYTES = 1 << 20
_REFUSED = {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND}


class HubAwayError(ResourceError):
    """The hub cannot be asked now."""

    code = "hub_unreachable"
    retryable = True


@dataclass(frozen=True)
class HubRepository:
    """The hub's facts about one id.

    Attributes:
        problem: Reason that the id cannot be used; None if it can.
        files: Names of its files.
        config: Content of its `config.json`; None without one.
    """

    problem: str | None = None
    files: tuple[str, ...] = ()
    config: dict[str, Any] | None = None


class ModelHub:
    """Asks the hub, and remembers its answers.

    Args:
        clock: Monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._known: dict[tuple[Kind, str, str | None], tuple[float, HubRepository]] = {}
        self._away: tuple[float, str] | None = None

    def look_up(self, kind: Kind, name: str, revision: str | None = None) -> HubRepository:
        """Look up one repository, at a branch, tag or commit.

        Raises:
            HubAwayError: The hub does not answer, or is switched off by `HF_HUB_OFFLINE`.
        """
        key, now = (kind, name, revision), self._clock()
        with self._lock:
            known = self._known.get(key)
            if known is not None and now < known[0]:
                return known[1]
            if self._away is not None and now < self._away[0]:
                raise HubAwayError(self._away[1])
        try:
            found = _ask(kind, name, revision)
        except HubAwayError as error:
            with self._lock:
                self._away = (self._clock() + _AWAY_S, error.message)
            raise
        with self._lock:
            while len(self._known) >= _MAX_REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[key] = (self._clock() + (_FOUND_S if found.problem is None else _MISSING_S), found)
        return found


def cached_snapshot(kind: Kind, name: str, revision: str | None = None) -> Path | None:
    """Return a repository's directory in the hub's cache on this machine, as complete as the cache knows; or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True))
    except (OSError, HFValidationError):
        return None


def cached_model(name: str, revision: str | None = None) -> Path | None:
    """Return the directory of a model in the cache, if it holds a config and weights."""
    path = cached_snapshot("model", name, revision)
    if path is None or not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        return None
    return path


def cached_adapter(name: str) -> Path | None:
    """Return the directory of an adapter in the cache, if it holds its settings and weights."""
    path = cached_snapshot("model", name)
    if path is None or not all(
        (path / file).is_file() for file in ("adapter_config.json", "adapter_model.safetensors")
    ):
        return None
    return path


def _ask(kind: Kind, name: str, revision: str | None) -> HubRepository:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise HubAwayError("HF_HUB_OFFLINE is set")
    token = get_token()
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    endpoint = str(constants.ENDPOINT).rstrip("/")
    api = f"{endpoint}/api/{kind}s/{name}"
    try:
        with httpx.Client(headers=headers, timeout=HUB_TIMEOUT_S, follow_redirects=True) as http:
            answer = http.get(api if revision is None else f"{api}/revision/{quote(revision, safe='')}")
            problem = _problem(kind, name, revision, answer)
            if problem is not None:
                return HubRepository(problem)
            model_info = answer.json()
            if model_info.get("gated"):
                problem = _problem(kind, name, revision, http.get(f"{api}/auth-check"))
                if problem is not None:
                    return HubRepository(problem)
            files = tuple(str(each["rfilename"]) for each in model_info.get("siblings") or ())
            config = None
            if kind == "model" and "config.json" in files:
                commit = quote(str(model_info.get("sha") or revision or "main"), safe="")
                config = _config(http.get(f"{endpoint}/{name}/resolve/{commit}/config.json"))
            return HubRepository(files=files, config=config)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise HubAwayError(f"{endpoint} does not answer ({type(error).__name__})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HubAwayError(f"{endpoint} answers with something that is no hub's ({type(error).__name__})") from error


def _problem(kind: Kind, name: str, revision: str | None, answer: httpx.Response) -> str | None:
    """Return why a repository cannot be used, from the hub's answer; None for a usable one."""
    if answer.is_success:
        return None
    if answer.status_code not in _REFUSED:
        raise HubAwayError(f"{answer.url.host} answers with HTTP {answer.status_code}")
    code = answer.headers.get("x-error-code", "")
    if code == "RevisionNotFound" or (code == "" and revision is not None and "/revision/" in answer.url.path):
        return f"the {kind} hub's {name} has no revision {revision!r}"
    if code == "GatedRepo" or answer.status_code == httpx.codes.FORBIDDEN:
        return f"access to {name} is by permission, and the service's token (HF_TOKEN) has none"
    return f"the {kind} hub has no {name!r}, or the service's token (HF_TOKEN) may not read it"


def _config(answer: httpx.Response) -> dict[str, Any] | None:
    """Return a model's config; None if it cannot be read (the job reports that more precisely)."""
    if not answer.is_success or len(answer.content) > _MAX_CONFIG_BYTES:
        return None
    try:
        value = bounded_json.parse(answer.content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
