"""Deployments and packs in their wire form."""

from __future__ import annotations

from api.auth import Caller
from api.deployments.live import Live
from api.deployments.schemas import (
    DeploymentBody,
    DeploymentDetail,
    DeploymentEventBody,
    DeploymentEventList,
    DriftBody,
    EvaluationBody,
    MemoryBody,
    PackBody,
    PackVersionBody,
    ReplicasBody,
    RevisionBody,
)
from api.packs.packs import PackService
from eda_service.config.job import EngineKind
from eda_service.errors import NotFoundError
from eda_service.jobstore import Deployment, DeploymentEvent, Revision
from eda_service.storage.published.packs import PackVersion


def deployment_body(deployment: Deployment, live: Live, packs: PackService) -> DeploymentBody:
    """What is wanted, and what is."""
    target, variant, engine = deployment.target, live.variant, deployment.engine_spec
    memory = None
    if variant is not None:
        memory = MemoryBody(
            base_bytes=live.base_bytes, adapter_bytes=variant.adapter_bytes, pack_bytes=variant.pack_bytes
        )
    return DeploymentBody(
        **deployment.model_dump(
            include={
                "name", "owner", "base_draft", "pack", "pack_ref", "labels", "job_id", "revision", "created_at",
                "updated_at",
            }
        ),
        state=live.state.value,
        reason=live.reason,
        model=target["model"],
        adapter=target.get("adapter"),
        model_revision=target.get("revision"),
        dtype=target.get("dtype", "auto"),
        loaded_pack=None if variant is None else variant.pack,
        evaluation=_evaluation(packs.served(deployment.pack)),
        replicas=ReplicasBody(
            min=deployment.min_replicas,
            max=deployment.max_replicas,
            round_ms=deployment.round_ms,
            running=live.num_replicas,
        ),
        engine=engine.kind,
        accelerator=engine.accelerator if engine.kind is EngineKind.VLLM else None,
        vllm=engine.vllm if engine.kind is EngineKind.VLLM else None,
        group=live.group,
        memory=memory,
        num_running=None if variant is None else variant.num_running,
    )  # fmt: skip


def deployment_detail(
    deployment: Deployment, live: Live, packs: PackService, revisions: list[Revision], drift: DriftBody
) -> DeploymentDetail:
    """The same with its history and drift."""
    body = deployment_body(deployment, live, packs)
    return DeploymentDetail(**body.model_dump(), drift=drift, revisions=[_revision_body(each) for each in revisions])


def deployment_events(found: list[DeploymentEvent], has_more: bool) -> DeploymentEventList:
    """A page of events."""
    data = [
        DeploymentEventBody(
            id=each.id, created_at=each.at, level=each.level, type=each.type, message=each.message, data=each.data
        )
        for each in found
    ]
    return DeploymentEventList(
        data=data, has_more=has_more, first_id=data[0].id if data else None, last_id=data[-1].id if data else None
    )


def pack_body(
    name: str,
    versions: list[PackVersion],
    packs: PackService,
    caller: Caller,
    *,
    shown: list[PackVersion] | None = None,
) -> PackBody:
    """A pack with its versions, newest first, and its champion.

    Args:
        name: Of the pack.
        versions: All that the caller sees, oldest first.
        packs: Knows pins and jobs.
        caller: Who asks.
        shown: Of the versions, those that are told of; None: all.
    """
    pinned = packs.pinned(name, caller)
    try:
        champion = packs.champion(name, caller.owner, versions).version
    except NotFoundError:
        champion = None
    return PackBody(
        name=name,
        latest=versions[-1].version,
        champion=champion,
        champion_pinned=champion is not None and champion == pinned,
        versions=[pack_version_body(each, packs) for each in reversed(versions if shown is None else shown)],
    )


def pack_version_body(pack: PackVersion, packs: PackService) -> PackVersionBody:
    """One version of a pack, as lists show it."""
    manifest, job = pack.manifest, packs.job_of(pack)
    return PackVersionBody(
        id=pack.reference,
        version=pack.version,
        created_at=None if manifest is None else manifest.created_at,
        method=None if manifest is None else manifest.method,
        base_draft=None if manifest is None else manifest.base_draft,
        target=None if manifest is None else manifest.target.model_dump(include={"model", "revision", "adapter"}),
        size_bytes=None if manifest is None else sum(entry.size_bytes for entry in manifest.files),
        num_parameters=None if manifest is None else manifest.num_parameters,
        job_id=None if job is None else job.id,
        source=None if manifest is None else manifest.source or None,
        evaluation=_evaluation(pack),
    )


def _evaluation(pack: PackVersion | None) -> EvaluationBody | None:
    if pack is None or pack.evaluation is None:
        return None
    return EvaluationBody(**pack.evaluation.model_dump(include=set(EvaluationBody.model_fields)))


def _revision_body(revision: Revision) -> RevisionBody:
    return RevisionBody(
        **revision.model_dump(
            include={"revision", "base_draft", "pack", "pack_ref", "job_id", "made_by", "reason", "created_at"}
        ),
        replicas={"min": revision.min_replicas, "max": revision.max_replicas, "round_ms": revision.round_ms},
    )
