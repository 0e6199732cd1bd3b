"""Ray Jobs over the dashboard's REST API: submit, query, stop, read logs.

Plain HTTP is used instead of `ray.job_submission`, whose import costs seconds and hundreds of megabytes in the API
process. Every call has a deadline and raises `ClusterUnreachableError` without an answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from eda_service.errors import ResourceError
from eda_service.planning.placement import DRIVER_CPUS

_TIMEOUT_S = 10.0


class ClusterUnreachableError(ResourceError):
    """The Ray dashboard does not answer, or answers that it cannot work now."""

    code = "cluster_unreachable"
    retryable = True


class RayStatus(StrEnum):
    """Ray's own states of a submitted job."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


RAY_ENDED = frozenset({RayStatus.STOPPED, RayStatus.SUCCEEDED, RayStatus.FAILED})


class RayJob(BaseModel):
    """Ray's facts about one submission."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    submission_id: str | None
    status: RayStatus
    message: str | None = None
    driver_info: dict[str, Any] | None = None

    @property
    def driver_pid(self) -> int | None:
        """Process id of the entry point on its node, once it has connected to Ray."""
        value = (self.driver_info or {}).get("pid")
        return int(value) if value is not None else None


class RayJobs:
    """Client of one cluster's job API.

    Args:
        dashboard_url: Address of the dashboard, for example `http://127.0.0.1:8265`.
        headers: Headers of authentication, from `token.auth_headers`.
    """

    def __init__(self, dashboard_url: str, headers: Mapping[str, str] | None = None) -> None:
        self.dashboard_url = dashboard_url
        self._http = httpx.Client(base_url=dashboard_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def session(self) -> str | None:
        """Return the name of the cluster's session, new at every start of its head; None while the dashboard does not
        answer.
        """
        try:
            response = self._http.get("/api/version", timeout=5.0)
            return str(response.json()["session_name"]) if response.is_success else None
        except (httpx.HTTPError, ValueError, KeyError):
            return None

    def submit(
        self, submission_id: str, entrypoint: str, *, env_vars: dict[str, str], num_cpus: float = DRIVER_CPUS
    ) -> None:
        """Start `entrypoint` as a Ray job; an existing submission of that id is adopted.

        Raises:
            ClusterUnreachableError: Ray did not accept the job.
        """
        body = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": {"env_vars": env_vars},
            "metadata": {"submitted_by": "eda"},
            "entrypoint_num_cpus": num_cpus,
        }
        response = self._request("POST", "/api/jobs/", json=body)
        if response.status_code != httpx.codes.OK and "already exists" not in response.text:
            raise self._refused("submit", response)

    def get(self, submission_id: str) -> RayJob | None:
        """Return one submission; None if this cluster does not know it (or its head was restarted)."""
        response = self._request("GET", f"/api/jobs/{submission_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.status_code != httpx.codes.OK:
            raise self._refused("look up", response)
        return RayJob.model_validate_json(response.content)

    def find_by_driver_pid(self, pid: int) -> RayJob | None:
        """Find the submission whose entry point runs as `pid`, for a job that was started by hand."""
        response = self._request("GET", "/api/jobs/")
        if response.status_code != httpx.codes.OK:
            raise self._refused("list jobs", response)
        jobs = [RayJob.model_validate(item) for item in response.json() if item.get("type") == "SUBMISSION"]
        return next((job for job in jobs if job.driver_pid == pid), None)

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job and return at once; the job ends within the head's stop wait time."""
        response = self._request("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code not in {httpx.codes.OK, httpx.codes.NOT_FOUND}:
            raise self._refused("stop", response)

    def logs(self, submission_id: str) -> str:
        """Return the output of the entry point so far; empty if Ray has none."""
        with contextlib.suppress(ClusterUnreachableError):
            response = self._request("GET", f"/api/jobs/{submission_id}/logs")
            if response.status_code == httpx.codes.OK:
                return str(response.json().get("logs") or "")
        return ""

    def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **kwargs)
        except httpx.HTTPError as error:
            raise ClusterUnreachableError(
                f"the Ray dashboard at {self.dashboard_url} does not answer ({type(error).__name__}); "
                "is `eda up` running?"
            ) from error

    def _refused(self, what: str, response: httpx.Response) -> ClusterUnreachableError:
        last = response.text.strip().splitlines()[-1:] or [""]
        return ClusterUnreachableError(f"Ray could not {what}: HTTP {response.status_code}: {last[0][:300]}")
