"""What the service answers about deployments and packs, read tolerantly."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from eda_service.client.answers.answers import Answer


class Evaluation(Answer):
    """What a pack measured on held-out prompts."""

    temperature: float
    acceptance_length: float
    base_acceptance_length: float
    speedup: float | None = None
    measured_on: str = ""
    num_prompts: int | None = None
    num_draft_tokens: int | None = None


class Replicas(Answer):
    """Replicas of a deployment's group."""

    min: int
    max: int
    round_ms: int | None = None
    running: int = 0


class Memory(Answer):
    """Bytes in one replica; None where it does not say. The base is shared by everything in the group."""

    base_bytes: int | None = None
    adapter_bytes: int | None = None
    pack_bytes: int | None = None


class Drift(Answer):
    """Whether the pack still fits what it is asked; None where the service cannot judge."""

    is_below: bool
    acceptance_length: float | None = None
    expected: float | None = None
    ratio: float | None = None
    settings: dict[str, Any] = Field(default_factory=dict)


class DeploymentEvent(Answer):
    """Something that happened to a deployment."""

    id: int
    created_at: int
    level: str
    type: str
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class Revision(Answer):
    """A deployment as one change left it."""

    revision: int
    base_draft: str | None = None
    pack: str | None = None
    pack_ref: str | None = None
    replicas: dict[str, int | None] = Field(default_factory=dict)
    job_id: str | None = None
    made_by: str
    reason: str
    created_at: int


class Deployment(Answer):
    """One name at the endpoint: what is wanted, and what is. Only `get` gives `drift` and `revisions`, newest first."""

    name: str
    owner: str = "local"
    state: str
    reason: str | None = None
    model: str
    adapter: str | None = None
    base_draft: str | None = None
    pack: str | None = None
    pack_ref: str | None = None
    loaded_pack: str | None = None
    evaluation: Evaluation | None = None
    replicas: Replicas
    engine: str = "eda"
    accelerator: str | None = None
    vllm: dict[str, Any] | None = None
    group: str = ""
    memory: Memory | None = None
    num_running: int | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    job_id: str | None = None
    revision: int
    created_at: int
    updated_at: int
    warnings: tuple[str, ...] = ()
    drift: Drift | None = None
    revisions: tuple[Revision, ...] = ()


class PackVersion(Answer):
    """One published version of a pack."""

    id: str
    version: int
    created_at: int | None = None
    method: str | None = None
    base_draft: str | None = None
    target: dict[str, Any] | None = None
    size_bytes: int | None = None
    num_parameters: int | None = None
    job_id: str | None = None
    source: str | None = None
    evaluation: Evaluation | None = None


class Serving(Answer):
    """A deployment that serves a version of a pack."""

    name: str
    pack_ref: str | None = None


class Rival(Answer):
    """Another pack that a version's job measured beside its own."""

    pack: str
    acceptance_length: float
    speedup: float | None = None


class PackVersionDetail(PackVersion):
    """One version with all its numbers, its settings, what it was made from, and where it serves."""

    pinned: bool = False
    champion: bool = False
    metrics: dict[str, float] = Field(default_factory=dict)
    rivals: tuple[Rival, ...] = ()
    unmeasured_rivals: dict[str, str] = Field(default_factory=dict)
    fixed: dict[str, float] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    num_trainable: int | None = None
    base_draft_sha256: str | None = None
    target_sha256: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
    library_versions: dict[str, str] = Field(default_factory=dict)
    deployments: tuple[Serving, ...] = ()


class PackComparison(Answer):
    """Two packs on the same prompts, or why they cannot be compared."""

    pack: str
    other: str
    comparable: bool
    reason: str
    acceptance_length: float | None = None
    other_acceptance_length: float | None = None
    gain: float | None = None
    speedup: float | None = None
    other_speedup: float | None = None


class Pack(Answer):
    """A pack with its versions, newest first."""

    name: str
    latest: int
    champion: int | None = None
    champion_pinned: bool = False
    versions: tuple[PackVersion, ...] = ()
