"""What a finished job does to the deployment of its name: makes it, swaps its pack, or keeps it and says why."""

from __future__ import annotations

from dataclasses import dataclass

from api.services.packs import Packs
from eda_service.artifacts.packs import PackVersion, regression
from eda_service.errors import NotFoundError
from eda_service.jobstore import Deployment, Job, JobStore


@dataclass(frozen=True)
class Promotion:
    """Exactly one of the two is there.

    Attributes:
        deployment: As it shall be.
        kept: Why it stays as it is.
    """

    deployment: Deployment | None
    kept: str | None


def promote(store: JobStore, packs: Packs, job: Job, pack: str) -> Promotion:
    """Decide about a pack that a job has just published.

    A deployment follows its own pack's `@latest` (and `@champion`, when that is the new one); one that was set to a
    version by hand, rolled back for example, stays there.
    """
    config = job.adapt_config()
    served = {
        "target": config.target.model_dump(mode="json"),
        "base_draft": config.base_draft,
        "pack": pack,
        "job_id": job.id,
    }
    name = config.public_name
    try:
        current = store.deployment(name)
    except NotFoundError:
        latest = f"{pack.partition('@')[0]}@latest"
        return Promotion(Deployment(name=name, owner=job.owner, pack_ref=latest, **served), None)
    kept = _reason_to_keep(packs, current, job, pack)
    if kept is not None:
        return Promotion(None, kept)
    return Promotion(current.model_copy(update=served), None)


def _reason_to_keep(packs: Packs, current: Deployment, job: Job, pack: str) -> str | None:
    if current.unreadable is not None:
        return f"the row of {current.name} cannot be read; delete that deployment and make it again with {pack}"
    if current.owner != job.owner:
        return f"the name {current.name} is taken by another owner; deploy {pack} under another one"
    try:
        new, versions = packs.published_by(job.owner, pack)
        return _pinned(packs, current, new, versions) or _worse(packs, current, new)
    except NotFoundError as error:
        return error.message


def _pinned(packs: Packs, current: Deployment, new: PackVersion, versions: list[PackVersion]) -> str | None:
    if current.pack_ref is None:
        return None
    name, _, which = current.pack_ref.partition("@")
    if name != new.name or which not in {"", "latest", "champion"}:
        return f"{current.name} is set to {current.pack_ref}; set it to {new.name}@latest to follow new versions"
    if which != "champion":
        return None
    best = packs.champion(name, current.owner, versions)
    return None if best == new else f"{current.name} follows {current.pack_ref}, which is {best.reference}"


def _worse(packs: Packs, current: Deployment, new: PackVersion) -> str | None:
    why = regression(new, packs.served(current.pack))
    return None if why is None else f"acceptance_regression: {why}; {current.name} keeps {current.pack}"
