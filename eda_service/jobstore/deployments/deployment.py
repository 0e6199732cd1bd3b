"""Values of the store about deployments: frozen, detached from the database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from eda_service.config.deployment import DriftConfig, EngineSpec
from eda_service.config.job import TargetSpec
from eda_service.ids import is_deployment_uid, made_at_s
from eda_service.jobstore.jobs.job import UNREADABLE
from eda_service.jobstore.row import Count, Row, Seconds, parses

_Target = Annotated[dict[str, Any], AfterValidator(parses(TargetSpec))]
_Engine = Annotated[dict[str, Any], AfterValidator(parses(EngineSpec))]
_Drift = Annotated[dict[str, Any], AfterValidator(parses(DriftConfig))]
_Name = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00-\x1f\x7f]{1,128}$")]
_Uid = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
_NumReplicas = Annotated[int, Field(ge=1, le=10_000)]


class Deployment(Row):
    """A deployment that Serve must offer as the model `name` at /v1/models."""

    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {
        "name": UNREADABLE, "owner": "", "target": {"model": UNREADABLE}, "base_draft": None, "pack": None
    }  # fmt: skip

    name: _Name
    uid: _Uid = Field(default="", description="its own id, made by the store; of a name made again it is another")
    owner: str = "local"
    target: _Target = Field(description="TargetSpec as JSON")
    base_draft: str | None = Field(description="name@version; None: without speculation")
    pack: str | None = Field(description="name@version; None: the base draft alone")
    pack_ref: str | None = Field(default=None, description="the pack as it was written, `name@latest` for example")
    min_replicas: _NumReplicas = 1
    max_replicas: _NumReplicas = 1
    round_ms: Annotated[int, Field(ge=1)] | None = Field(default=None, description="scale up when rounds take longer")
    engine: _Engine = Field(default_factory=dict, description="EngineSpec as JSON; what is not there is default")
    labels: dict[str, str] = Field(default_factory=dict)
    drift: _Drift = Field(default_factory=dict, description="DriftConfig as JSON; what is not there is default")
    job_id: str | None = Field(default=None, description="the job whose pack is served")
    revision: Count = Field(default=0, description="number of changes; 0: not stored yet")
    created_at: Seconds = 0
    updated_at: Seconds = 0

    @field_validator("max_replicas")
    @classmethod
    def _check_range(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_replicas", value):
            raise ValueError("is below min_replicas")
        return value

    @property
    def engine_spec(self) -> EngineSpec:
        """The engine that decodes it."""
        return EngineSpec.model_validate(self.engine)

    @property
    def has_own_uid(self) -> bool:
        """Whether it got its uid when it was made. An older deployment got one from the migration, and prompts kept
        under its name until then can only be its own.
        """
        return is_deployment_uid(self.uid) and int(made_at_s(self.uid)) == self.created_at


class Content(BaseModel):
    """The content of a deployment: one version of it."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    target: _Target
    base_draft: str | None
    pack: str | None


class Load(Row):
    """The state of loading a deployment, from its first failure on.

    Attributes:
        attempt: Number of the attempt that counts; each new one gets the next number, also after a change.
        num_failures: Number of consecutive failures of the wanted content.
        reason: Reason of the newest failure; None if the newest attempt has not failed.
        retry_at: Time at which the next attempt begins by itself; None: it has begun, or there is none.
        serves: Earlier version that answers meanwhile; None: no version does.
    """

    name: str
    attempt: Count = 0
    num_failures: Count = 0
    reason: str | None = None
    failed_at: Seconds | None = None
    retry_at: Seconds | None = None
    serves: Content | None = None

    @property
    def has_given_up(self) -> bool:
        """Whether it is not tried again until it is changed or restarted by a user."""
        return self.reason is not None and self.retry_at is None

    @property
    def is_waiting(self) -> bool:
        """Whether the newest attempt has failed and another one will follow."""
        return self.reason is not None and self.retry_at is not None


def load_of(loads: Mapping[str, Load], name: str) -> Load:
    """Return a deployment's state of loading; a default if it has never failed, because then there is no row."""
    return loads.get(name) or Load(name=name)


def served_version(deployment: Deployment, load: Load | None) -> Deployment | None:
    """Return the version that replicas are told to serve: the wanted one, or while that does not load the version
    before; None if it cannot be loaded and no version was served before.
    """
    if load is None or load.reason is None:
        return deployment
    if load.serves is not None:
        return deployment.model_copy(update=load.serves.model_dump())
    return None if load.has_given_up else deployment


class DeploymentEvent(Row):
    """Something that happened to a deployment."""

    PLACEHOLDERS: ClassVar[Mapping[str, Any]] = {
        "id": 0, "name": UNREADABLE, "at": 0, "level": "error", "type": UNREADABLE, "message": UNREADABLE, "data": {}
    }  # fmt: skip

    id: int
    name: str
    at: Seconds
    level: str
    type: str
    message: str
    data: dict[str, Any]


class Drift(Row):
    """The state of the check whether the acceptance of a deployment's pack has fallen.

    Attributes:
        crossed_at: Time at which it last fell or rose.
        adapted_at: Time at which a job was last made because of it.
        is_handled: Whether a job was made since it fell, or none will be.
    """

    name: str
    pack: str
    is_below: bool
    crossed_at: Seconds
    adapted_at: Seconds | None = None
    is_handled: bool = False


class Revision(Row):
    """A deployment as one change left it."""

    name: str
    revision: Count
    target: _Target
    base_draft: str | None
    pack: str | None
    pack_ref: str | None
    min_replicas: _NumReplicas
    max_replicas: _NumReplicas
    round_ms: int | None
    job_id: str | None
    made_by: str
    reason: str
    created_at: Seconds

    @property
    def content(self) -> dict[str, Any]:
        """The content that a rollback restores: the served model, not the number of replicas."""
        return self.model_dump(include=set(SERVED))


SERVED = ("target", "base_draft", "pack", "pack_ref", "job_id")
