"""Bodies of `/v1/deployments` and `/v1/packs`: what callers send (strict and bounded) and what they get."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from api.jobs.schemas import MetadataKey, MetadataValue, Shallow
from eda_service.config.base import Config, Name
from eda_service.config.deployment import Accelerator, DriftConfig, VllmConfig
from eda_service.config.job import EngineKind

MAX_REPLICAS = 64
NumReplicas = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
PackName = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Reason = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class ReplicaRange(Config):
    """How many replicas a deployment's group has, between which it scales by the requests that run and, with
    `round_ms`, by the time that a decoding round takes.
    """

    min: NumReplicas = Field(1, description="kept at all times")
    max: NumReplicas = Field(1, description="at most")
    round_ms: int | None = Field(None, ge=1, le=60_000, description="another replica when mean rounds take longer")

    @model_validator(mode="after")
    def _check_order(self) -> ReplicaRange:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, above max {self.max}; exchange them")
        if self.round_ms is not None and self.min == self.max:
            raise ValueError(f"round_ms scales between min and max, and both are {self.min}; raise max or leave it out")
        return self


Replicas = NumReplicas | ReplicaRange


def replica_range(replicas: Replicas) -> ReplicaRange:
    """A number as a range of one."""
    return replicas if isinstance(replicas, ReplicaRange) else ReplicaRange(min=replicas, max=replicas)


class DeploymentRequest(Config):
    """Body of `POST /v1/deployments`."""

    name: Name | None = Field(
        None,
        description="name at /v1/models; default: the adapter's or model's last part, without a model the pack's name",
    )
    model: str | None = Field(
        None, min_length=1, max_length=512, description="target: id, shipped name or directory; null: the pack's own"
    )
    adapter: str | None = Field(None, min_length=1, max_length=512, description="LoRA adapter on top of the model")
    revision: str | None = Field(None, max_length=128, description="branch, tag or commit of the model")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the target's weights")
    base_draft: str | None = Field(
        None, max_length=128, description="name@version; left out: the pack's, else the default; null: no speculation"
    )
    pack: PackName | None = Field(
        None, description="name@3, name@latest, name@champion, or name; null: the base draft alone"
    )
    replicas: Replicas = Field(1, description="a number, or a range to scale in; the largest of a group counts")
    engine: EngineKind = Field(EngineKind.EDA, description="who decodes; it stays for the deployment's life")
    accelerator: Accelerator = Field(
        Accelerator.CPU, description="what vLLM computes on; the other engine takes what is there"
    )
    vllm: VllmConfig = Field(VllmConfig(), description="settings of engine vllm")
    labels: dict[MetadataKey, MetadataValue] = Field({}, max_length=16, description="the caller's own pairs")
    drift: DriftConfig = Field(DriftConfig(), description="when acceptance counts as fallen, and what then happens")
    force: bool = Field(False, description="also a pack that measured worse than what it would replace")
    confirm: bool = Field(False, description="also where another deployment gets slower by it")


class DeploymentChange(Config):
    """Body of `PATCH /v1/deployments/{name}`: only what is given changes."""

    pack: PackName | None = Field(None, description="as at creation; null: the base draft alone")
    replicas: Replicas | None = Field(None, description="as at creation")
    labels: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16, description="replaces all of them")
    drift: Shallow | None = Field(None, max_length=16, description="fields of `drift` to change")
    force: bool = Field(False, description="also a pack that measured worse than the present one")
    reason: Reason | None = Field(None, description="for the history")


class RollbackRequest(Config):
    """Body of `POST /v1/deployments/{name}/rollback`."""

    revision: int | None = Field(None, ge=1, description="which; None: the last one that served something else")
    reason: Reason | None = Field(None, description="for the history")


class ChampionRequest(Config):
    """Body of `PUT /v1/packs/{name}/champion`."""

    version: int | None = Field(
        ge=1,
        description="what the name alone and name@champion are; null: the newest, and the best measured one, again",
    )


class EvaluationBody(BaseModel):
    """What a pack measured on held-out prompts, at the first temperature of its evaluation."""

    temperature: float
    acceptance_length: float
    base_acceptance_length: float = Field(description="of the base draft alone, in the same measurement")
    speedup: float | None
    num_prompts: int
    num_draft_tokens: int
    tree: dict[str, int] | None
    dataset: str
    measured_on: str = Field(description="which held-out prompts, in words")


class ReplicasBody(BaseModel):
    """Replicas of a deployment's group."""

    min: int
    max: int
    round_ms: int | None
    running: int


class MemoryBody(BaseModel):
    """Memory of one replica; null where it does not say. The base is shared by everything in the group."""

    base_bytes: int | None
    adapter_bytes: int | None
    pack_bytes: int | None


class DriftBody(BaseModel):
    """Whether the pack still fits what it is asked, over the newest rounds."""

    is_below: bool
    acceptance_length: float | None = Field(description="null: too few rounds in the window, or no pack to judge")
    expected: float | None = Field(description="what the pack was published with")
    ratio: float | None
    settings: DriftConfig


class DeploymentEventBody(BaseModel):
    """Something that happened to a deployment."""

    object: Literal["deployment.event"] = "deployment.event"
    id: int
    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any]


class DeploymentEventList(BaseModel):
    """A page of events, newest first."""

    object: Literal["list"] = "list"
    data: list[DeploymentEventBody]
    has_more: bool
    first_id: int | None
    last_id: int | None


class DeploymentBody(BaseModel):
    """One deployment: what is wanted, and what is."""

    name: str
    object: Literal["deployment"] = "deployment"
    owner: str
    state: Literal["pending", "loading", "ready", "failed"]
    reason: str | None = Field(description="why it is not ready")
    model: str
    adapter: str | None
    model_revision: str | None
    dtype: str
    base_draft: str | None
    pack: str | None
    pack_ref: str | None = Field(description="the pack as it was written")
    loaded_pack: str | None = Field(description="what answers now; another than `pack` while that is being loaded")
    evaluation: EvaluationBody | None
    replicas: ReplicasBody
    engine: EngineKind
    accelerator: Accelerator | None = Field(description="null: what the replica finds")
    vllm: VllmConfig | None = Field(description="null: another engine")
    group: str = Field(description="deployments with the same one share a base target and its replicas")
    memory: MemoryBody | None
    num_running: int | None = Field(description="requests of this name that one replica is working on")
    labels: dict[str, str]
    job_id: str | None
    revision: int = Field(description="number of changes")
    created_at: int
    updated_at: int
    warnings: list[str] = Field([], description="of a creation: what it does to the deployments on the same base")


class RevisionBody(BaseModel):
    """A deployment as one change left it."""

    object: Literal["deployment.revision"] = "deployment.revision"
    revision: int
    base_draft: str | None
    pack: str | None
    pack_ref: str | None
    replicas: dict[str, int | None]
    job_id: str | None
    made_by: str
    reason: str
    created_at: int


class DeploymentDetail(DeploymentBody):
    """One deployment with its history."""

    drift: DriftBody
    revisions: list[RevisionBody] = Field(description="newest first, at most 100")


class DeploymentList(BaseModel):
    """A page of deployments, by name."""

    object: Literal["list"] = "list"
    data: list[DeploymentBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedBody(BaseModel):
    """A deployment that is gone."""

    name: str
    object: Literal["deployment"] = "deployment"
    deleted: Literal[True] = True


class PackVersionBody(BaseModel):
    """One published version of a pack."""

    object: Literal["pack.version"] = "pack.version"
    id: str
    version: int
    created_at: int | None
    method: str | None
    base_draft: str | None
    target: dict[str, Any] | None = Field(description="model, revision and adapter that it was made for")
    size_bytes: int | None
    num_parameters: int | None
    job_id: str | None
    source: str | None = Field(description="of one that was pulled: from where; its numbers were not measured here")
    evaluation: EvaluationBody | None


class PackBody(BaseModel):
    """A pack with its versions."""

    name: str
    object: Literal["pack"] = "pack"
    latest: int
    champion: int | None = Field(description="what name@champion is; null: no version has an evaluation")
    champion_pinned: bool = Field(description="by the caller: the name alone means it, and no job's pack replaces it")
    versions: list[PackVersionBody] = Field(description="newest first")


class PackList(BaseModel):
    """Packs by name."""

    object: Literal["list"] = "list"
    data: list[PackBody]
    has_more: bool
    first_id: str | None
    last_id: str | None


class ModelBody(BaseModel):
    """One name at the endpoint."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["eda"] = "eda"
    base_draft: str | None
    pack: str | None


class ModelsBody(BaseModel):
    """Every name at the endpoint that the caller may use."""

    object: Literal["list"] = "list"
    data: list[ModelBody]
