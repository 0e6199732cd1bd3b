"""What the store hands out about deployments: frozen values, detached from the database."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from eda_service.deployment_config import EngineSpec
from eda_service.jobstore.ids import made_at_s
from eda_service.jobstore.job import Row


class Deployment(Row):
    """Something that Serve must offer: `name` at /v1/models."""

    name: str
    uid: str = Field(default="", description="its own id, made by the store; of a name made again it is another")
    owner: str = "local"
    target: dict[str, Any] = Field(description="TargetSpec as JSON")
    base_draft: str | None = Field(description="name@version; None: without speculation")
    pack: str | None = Field(description="name@version; None: the base draft alone")
    pack_ref: str | None = Field(default=None, description="the pack as it was written, `name@latest` for example")
    min_replicas: int = 1
    max_replicas: int = 1
    round_ms: int | None = Field(default=None, description="scale up when rounds take longer")
    engine: dict[str, Any] = Field(default_factory=dict, description="EngineSpec as JSON; what is not there is default")
    labels: dict[str, str] = Field(default_factory=dict)
    drift: dict[str, Any] = Field(default_factory=dict, description="DriftConfig as JSON; what is not there is default")
    job_id: str | None = Field(default=None, description="the job whose pack is served")
    revision: int = Field(default=0, description="number of changes; 0: not stored yet")
    created_at: int = 0
    updated_at: int = 0

    @property
    def engine_spec(self) -> EngineSpec:
        """What decodes it."""
        return EngineSpec.model_validate(self.engine)

    @property
    def has_own_uid(self) -> bool:
        """Whether it got its uid when it was made. A deployment that is older got one from the migration, and what was
        kept under its name until then can only be its own.
        """
        return self.uid.startswith("dep_") and int(made_at_s(self.uid)) == self.created_at


class DeploymentEvent(Row):
    """Something that happened to a deployment."""

    id: int
    name: str
    at: int
    level: str
    type: str
    message: str
    data: dict[str, Any]


class Drift(Row):
    """Whether the acceptance of a deployment's pack has fallen.

    Attributes:
        crossed_at: When it last fell or rose.
        adapted_at: When a job was last made because of it.
        is_handled: Since it fell, a job was made, or none will be.
    """

    name: str
    pack: str
    is_below: bool
    crossed_at: int
    adapted_at: int | None = None
    is_handled: bool = False


class Revision(Row):
    """A deployment as one change left it."""

    name: str
    revision: int
    target: dict[str, Any]
    base_draft: str | None
    pack: str | None
    pack_ref: str | None
    min_replicas: int
    max_replicas: int
    round_ms: int | None
    job_id: str | None
    made_by: str
    reason: str
    created_at: int

    @property
    def content(self) -> dict[str, Any]:
        """What a rollback brings back: what is served, not on how many replicas."""
        return self.model_dump(include=set(SERVED))


SERVED = ("target", "base_draft", "pack", "pack_ref", "job_id")
