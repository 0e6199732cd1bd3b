"""A scripted server in the place of Ray's dashboard: it takes jobs, says that they run, and lists nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripted_service import Answer, Request, ScriptedService


def node(resources: Mapping[str, float], state: str = "ALIVE") -> dict[str, Any]:
    """A node as Ray's state API shows it."""
    return {"node_id": "n", "state": state, "resources_total": dict(resources)}


def node_list(*nodes: dict[str, Any]) -> Answer:
    """The state API's list of nodes."""
    found = {"total": len(nodes), "num_after_truncation": len(nodes), "num_filtered": len(nodes), "result": list(nodes)}
    return Answer({"result": True, "msg": "", "data": {"result": found}})


class Dashboard:
    """What is asked of it, and what it answers.

    Args:
        service: The server.
    """

    def __init__(self, service: ScriptedService) -> None:
        self._service = service
        self.submitted: list[str] = []
        self.statuses: dict[str, str] = {}
        self.url = service.url
        service.on("GET", "/api/version", Answer({"session_name": "session_1"}))
        service.on("POST", "/api/jobs/", self._submit)
        self.has({"CPU": 16.0})

    def has(self, *resources: Mapping[str, float]) -> None:
        """From now on its nodes are these."""
        self._service.on("GET", "/api/v0/nodes", node_list(*map(node, resources)))

    def takes_no_jobs(self) -> None:
        """From now on it lists its nodes and does nothing else."""
        self._service.on("GET", "/api/version", Answer(status=503))

    def is_silent(self) -> None:
        """From now on it does not say what its nodes have."""
        self._service.on("GET", "/api/v0/nodes", Answer(status=500))

    def _submit(self, request: Request) -> Answer:
        job_id = str(request.body["submission_id"])
        self.submitted.append(job_id)
        self.statuses[job_id] = "RUNNING"
        self._service.on("GET", f"/api/jobs/{job_id}", lambda _: self._look(job_id))
        self._service.on("POST", f"/api/jobs/{job_id}/stop", lambda _: self._stop(job_id))
        return Answer({"submission_id": job_id})

    def _look(self, job_id: str) -> Answer:
        return Answer({"submission_id": job_id, "status": self.statuses[job_id], "message": None})

    def _stop(self, job_id: str) -> Answer:
        self.statuses[job_id] = "STOPPED"
        return Answer({"stopped": True})
