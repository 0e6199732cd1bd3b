"""What one API process needs to know, from the environment that `eda up` gives it."""

from __future__ import annotations

import re
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode

from api.files.upload_routes import MAX_UPLOAD_BYTES
from eda_service.config.deployment import EngineLimits
from eda_service.config.tasks import JobKind
from eda_service.engines.vllm_environment import has_vllm
from eda_service.environment import READ, as_directories, variable_error
from eda_service.errors import InputError, reason_of
from eda_service.jobstore.home import database_url
from eda_service.storage.inputs.allowed import roots_for
from eda_service.storage.inputs.beneath import Roots
from eda_service.storage.runs.run import home_dir

_ENTRY_POINTS = {
    JobKind.ADAPT: "jobs.adapt",
    JobKind.IMPORT_DRAFT: "jobs.import_draft",
    JobKind.MEASURE: "jobs.measure",
    JobKind.EXPORT: "jobs.export",
}


def _limit(name: str) -> Any:
    """A field of `EngineLimits` as one of the settings, with its bounds and its words."""
    return copy(EngineLimits.model_fields[name])


class Settings(BaseSettings):
    """Settings of the API process; each field is the environment variable `EDA_<NAME>`, which what is given by name
    overrules.
    """

    model_config = READ

    home: Path = Field(default_factory=home_dir, description="root of all state")
    host: str = Field("127.0.0.1", description="address to listen on; other than loopback only once there are keys")
    port: int = Field(8700, ge=1, le=65535, description="port of the API and the gateway")
    serve_port: int = Field(8701, ge=1, le=65535, description="port of Ray Serve, behind the gateway")
    serve_host: str = Field(
        "127.0.0.1", description="address Serve listens on; another one only where a network policy guards it"
    )
    serve_upstream: str = Field(
        "", description="base URL of Serve where it runs on another machine; empty: this one's loopback"
    )
    serve_proxy_location: Literal["HeadOnly", "EveryNode"] = Field(
        "HeadOnly",
        description="nodes with a proxy of Serve; EveryNode: those with replicas too, which outlive the head",
    )
    serve_gpus: float = Field(0.0, ge=0.0, le=64.0, description="GPUs of one endpoint replica")
    serve_max_replicas_per_node: int | None = Field(
        None,
        ge=1,
        le=100,
        description="replicas of one base model on one node; None: no limit, and two may meet on one",
    )
    serve_context: int = _limit("context")
    serve_batch: int = _limit("batch")
    serve_waiting: int = _limit("waiting")
    drain_s: int = Field(20, ge=0, le=3600, description="what open requests get to finish when this process stops")
    ray_dashboard_url: str = Field("http://127.0.0.1:8265", description="Ray Jobs and Serve REST APIs")
    ray_token_path: Path | None = Field(None, description="Ray's token file; None: the one under home, if there is one")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite under home")
    secrets_key: str = Field(
        "",
        repr=False,
        description="keys that seal secrets in the database, by commas, the first one seals; empty: a file under home",
    )
    local_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="directories under which local paths may be named"
    )
    hub_at_submit: Literal["ask", "skip"] = Field(
        "ask",
        description="whether the model hub is asked at submit if it has what a job names; skip: where this process "
        "cannot reach the hub and Ray's workers can, only its cache is looked at and nothing is refused for absence",
    )
    cluster_grows: bool = Field(
        False,
        description="an autoscaler adds nodes as jobs ask for them: a job that asks for more CPUs or GPUs than the "
        "cluster or its nodes have is queued with a warning and not refused, and one such job at a time waits in Ray, "
        "where the autoscaler sees it",
    )
    serve: bool = Field(True, description="offer finished jobs at the endpoint; off: adapt only")
    job_command: str = Field(
        f"python -m {_ENTRY_POINTS[JobKind.ADAPT]}",
        description="entry point of an adaptation, and with its own module in the place of `jobs.adapt` of every other "
        "kind of job; `--job-id ID` is appended",
    )
    import_command: str | None = Field(
        None, description="entry point of the import of a draft; None: as `job_command` says"
    )
    measure_command: str | None = Field(None, description="entry point of a measurement; None: as `job_command` says")
    export_command: str | None = Field(None, description="entry point of an export; None: as `job_command` says")
    max_running: int = Field(1, ge=1, le=1000, description="jobs that run at the same time")
    max_running_per_owner: int | None = Field(
        None, ge=1, le=1000, description="of one owner; None: no limit of its own"
    )
    max_queued_per_owner: int | None = Field(
        10_000, ge=1, le=1_000_000, description="more queued jobs of one owner are refused"
    )
    idempotency_days: int = Field(30, ge=1, le=3650, description="how long a repeated Idempotency-Key is recognised")
    max_deployments_per_owner: int = Field(
        100, ge=1, le=10_000, description="more deployments of one owner are refused"
    )
    max_file_bytes: int = Field(
        512 << 20, ge=1 << 10, le=MAX_UPLOAD_BYTES, description="of one uploaded file; larger ones are refused"
    )
    max_file_bytes_per_owner: int = Field(
        10 << 30, ge=1 << 10, le=1 << 50, description="of all uploaded files of one owner; more is refused"
    )
    requests_per_minute: int | None = Field(
        None, ge=1, le=1_000_000, description="of one key at the endpoint, unless it has its own; None: no limit"
    )
    concurrent_requests: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="of one key at a time, unless it has its own; None: no limit",
    )
    vllm_on_workers: bool | None = Field(
        None, description="whether Ray's workers can import vLLM; None: if this process can, as `eda up` starts both"
    )
    lease_s: float = Field(30.0, ge=1.0, le=3600.0, description="how long a dispatcher that died keeps its jobs")
    stage_deadline_s: float = Field(
        86_400.0, ge=1.0, description="longest run of a stage for which the job names no deadline"
    )
    max_attempts: int = Field(3, ge=1, le=100, description="attempts before a retryable failure becomes final")
    dispatch_interval_s: float = Field(1.0, gt=0.0, le=60.0, description="time between two looks at everything")
    drift_interval_s: float = Field(5.0, gt=0.0, le=3600.0, description="time between two looks at served acceptance")
    webhook_private_addresses: bool = Field(False, description="also call private addresses, as in a closed network")
    webhook_ca_file: Path | None = Field(None, description="certificates to trust for webhooks; None: the public ones")
    backoff_s: float = Field(5.0, ge=0.0, le=3600.0, description="wait before the second attempt; doubles each time")
    grace_s: float = Field(30.0, ge=0.0, le=3600.0, description="silence before an attempt Ray forgot counts as lost")
    heartbeat_timeout_s: float = Field(120.0, gt=0.0, description="silence before a job started by hand counts as lost")
    stall_timeout_s: float = Field(3600.0, gt=0.0, description="silence before a job Ray calls running is stopped")

    _directories = field_validator("local_roots", mode="before")(as_directories)

    @property
    def serve_url(self) -> str:
        """Base URL of Ray Serve."""
        return self.serve_upstream.rstrip("/") or f"http://127.0.0.1:{self.serve_port}"

    def command_of(self, kind: JobKind) -> str:
        """The entry point of a kind of job.

        A command of somebody's own, which names no `jobs.adapt`, runs jobs of all kinds: what to do is in `job.json`.
        """
        own = {
            JobKind.IMPORT_DRAFT: self.import_command,
            JobKind.MEASURE: self.measure_command,
            JobKind.EXPORT: self.export_command,
        }.get(kind)
        adapting = rf"(?<![\w.]){re.escape(_ENTRY_POINTS[JobKind.ADAPT])}(?![\w.])"
        return own or re.sub(adapting, _ENTRY_POINTS[kind], self.job_command)

    @property
    def limits(self) -> EngineLimits:
        """What each engine of the endpoint takes."""
        return EngineLimits(context=self.serve_context, batch=self.serve_batch, waiting=self.serve_waiting)

    @property
    def has_vllm(self) -> bool:
        """Whether what this service starts can run on vLLM."""
        return has_vllm() if self.vllm_on_workers is None else self.vllm_on_workers

    @property
    def store_url(self) -> str:
        """Database URL with its default filled in."""
        return database_url(self.home, self.database_url)

    @property
    def roots(self) -> Roots:
        """Where requests may name files: never in the home. A root that is a link is followed when this is asked."""
        return roots_for(self.local_roots, self.home)

    @classmethod
    def from_env(cls) -> Settings:
        """Read the environment.

        Raises:
            InputError: A variable does not parse.
        """
        try:
            return cls()
        except ValidationError as error:
            raise variable_error(error) from error
        except ValueError as error:  # what pydantic-settings cannot take apart at all
            raise InputError(f"the environment does not configure the API: {reason_of(error)}") from error
