"""The declarative Serve config: one application that offers every deployed pair, applied over REST.

Schema: `ray.serve.schema.ServeDeploySchema` (Ray 2.60). Only `user_config` changes between versions, which Serve
applies to live replicas in place: a new pack is swapped in without a restart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from eda_service.distributed.ray_jobs import ClusterUnreachableError

APPLICATION = "eda"
DEPLOYMENT = "Endpoint"
IMPORT_PATH = "api.serving.app:build_app"
_PATH = "/api/serve/applications/"
_TIMEOUT_S = 60.0  # the first PUT starts the Serve controller before it answers


class ServedModel(BaseModel):
    """One entry of the endpoint's `user_config`."""

    model_config = ConfigDict(frozen=True)

    name: str
    target: dict[str, Any]
    base_draft: str | None
    pack: str | None


def build_config(models: Sequence[ServedModel], *, port: int) -> dict[str, Any]:
    """The wanted state of Serve as a `ServeDeploySchema` dict; it listens on loopback, behind the API's gateway."""
    user_config = {"models": [model.model_dump(mode="json") for model in models]}
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "deployments": [{"name": DEPLOYMENT, "user_config": user_config}],
            }
        ],
    }


class ServeApi:
    """Client of one cluster's Serve REST API."""

    def __init__(self, dashboard_url: str, headers: Mapping[str, str] | None = None) -> None:
        self._http = httpx.Client(base_url=dashboard_url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def application_status(self) -> str | None:
        """`RUNNING`, `DEPLOYING`, `DEPLOY_FAILED`, ... or None when the application is not there.

        Raises:
            ClusterUnreachableError: The dashboard does not answer.
        """
        response = self._request("GET")
        application = response.json().get("applications", {}).get(APPLICATION)
        return None if application is None else str(application.get("status"))

    def apply(self, config: dict[str, Any]) -> None:
        """Make `config` the wanted state; Serve moves towards it by itself.

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
