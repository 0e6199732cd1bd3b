"""The client of Ray Serve's REST API: the current and the wanted state.

Schema: `ray.serve.schema.ServeDeploySchema` (Ray 2.60).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from eda_service.raycluster.jobs_api import ClusterUnreachableError
from eda_service.raycluster.serve_plan import DEPLOYMENT

_PATH = "/api/serve/applications/"
_TIMEOUT_S = 60.0  # the first PUT starts the Serve controller before it answers


@dataclass(frozen=True)
class Application:
    """The state of one Serve application.

    Attributes:
        status: Status such as `RUNNING`, `DEPLOYING`, `DEPLOY_FAILED`, `UNHEALTHY`.
        message: Reason of the status, if it is not running.
        num_running: Number of replicas that take requests; None while Serve builds the application and does not list
            them.
        config: Config that was last applied for it; None if Serve does not return it.
    """

    status: str
    message: str
    num_running: int | None
    config: Mapping[str, Any] | None = None


class ServeApi:
    """Client of one cluster's Serve REST API."""

    def __init__(self, dashboard_url: str, headers: Mapping[str, str] | None = None) -> None:
        self._http = httpx.Client(base_url=dashboard_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def applications(self) -> dict[str, Application]:
        """Return Serve's applications by name.

        Raises:
            ClusterUnreachableError: The dashboard does not answer.
        """
        found = self._request("GET").json().get("applications", {})
        return {name: _application(details) for name, details in found.items()}

    def apply(self, config: dict[str, Any]) -> None:
        """Set the wanted state of Serve; Serve moves towards it by itself.

        Raises:
            ClusterUnreachableError: The dashboard does not answer or refuses the config.
        """
        self._request("PUT", json=config)

    def _request(self, method: str, **kwargs: Any) -> httpx.Response:
        try:
            response = self._http.request(method, _PATH, **kwargs)
        except httpx.HTTPError as error:
            raise ClusterUnreachableError(f"the Serve API does not answer: {type(error).__name__}") from error
        if response.status_code != httpx.codes.OK:
            raise ClusterUnreachableError(f"the Serve API answered {response.status_code}: {response.text[:300]}")
        return response


def _application(details: Mapping[str, Any]) -> Application:
    replicas = details.get("deployments", {}).get(DEPLOYMENT, {}).get("replicas")
    running = None if replicas is None else sum(replica.get("state") == "RUNNING" for replica in replicas)
    config = details.get("deployed_app_config")
    return Application(str(details.get("status")), str(details.get("message", "")), running, config)
