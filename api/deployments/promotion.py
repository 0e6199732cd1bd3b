"""What a finished job does to the deployment of its name: makes it, swaps its pack, or keeps it and says why.

A pack takes over when its own job measured it beside what it would replace and it gained enough (`config.deploy`). What
the owner has pinned stays.
"""

from __future__ import annotations

from dataclasses import dataclass

from api.packs.packs import PackService
from eda_service.config.deploy import DeployConfig
from eda_service.errors import NotFoundError
from eda_service.jobstore import Deployment, Job
from eda_service.jobstore.deployments.deployments import DeploymentStore
from eda_service.references import Alias, Reference
from eda_service.storage.published.gate import Comparison, beside, beside_base, shortfall
from eda_service.storage.published.packs import PackVersion

_BY_HAND = "deploy it by hand, or adapt again with a lower deploy.min_gain"


@dataclass(frozen=True)
class Promotion:
    """What becomes of the deployment; nothing where both are None: it serves the pack already.

    Attributes:
        deployment: As it shall be.
        kept: Why it stays as it is.
        told: What decided, in words that follow "serving as".
    """

    deployment: Deployment | None
    kept: str | None
    told: str = ""


def promote(deployments: DeploymentStore, packs: PackService, job: Job, pack: str) -> Promotion:
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
    current: Deployment | None
    try:
        current = deployments.get(name)
    except NotFoundError:
        current = None
    if current is not None and current.owner == job.owner and current.pack == pack:
        return Promotion(None, None, "as it was already")
    kept, told = _decide(packs, current, job, pack, config.deploy)
    if kept is not None:
        return Promotion(None, kept)
    if current is None:
        made = Reference.parse(pack)
        latest = None if made is None else str(Reference(made.name, Alias.LATEST))
        return Promotion(Deployment(name=name, owner=job.owner, pack_ref=latest, **served), None, told)
    return Promotion(current.model_copy(update=served), None, told)


def _decide(
    packs: PackService, current: Deployment | None, job: Job, pack: str, gate: DeployConfig
) -> tuple[str | None, str]:
    """Why the deployment stays as it is, else None; and what decided."""
    if current is not None and current.unreadable is not None:
        return f"the row of {current.name} cannot be read; delete that deployment and make it again with {pack}", ""
    if current is not None and current.owner != job.owner:
        return f"the name {current.name} is taken by another owner; deploy {pack} under another one", ""
    if not gate.enabled:
        return f"the job was not to deploy (deploy.enabled is false); deploy {pack} by hand", ""
    try:
        new, versions = packs.published_by(job.owner, pack)
        kept = None if current is None else _pinned(packs, current, new, versions)
    except NotFoundError as error:
        kept = error.message
    return (kept, "") if kept is not None else _gate(current, new, gate)


def _gate(current: Deployment | None, new: PackVersion, gate: DeployConfig) -> tuple[str | None, str]:
    if gate.is_open:
        return None, "whatever it gains, as deploy.min_gain is 0"
    served = None if current is None else current.pack
    found = beside_base(new) if served is None else beside(new, served)
    if found is None:
        return _not_compared(new, served), ""
    return _too_little(found, gate, current), found.in_words()


def _pinned(packs: PackService, current: Deployment, new: PackVersion, versions: list[PackVersion]) -> str | None:
    kept = _set_to(packs, current, new, versions)
    if kept is not None:
        return kept
    served = packs.served(current.pack)
    if served is None or served.reference == new.reference or not packs.is_pinned_by(current.owner, served):
        return None
    return (
        f"{served.reference}, which {current.name} serves, is pinned; `eda packs pin {served.name} --off` lets newer "
        f"ones take over, and `eda packs pin {new.reference}` pins this one instead"
    )


def _set_to(packs: PackService, current: Deployment, new: PackVersion, versions: list[PackVersion]) -> str | None:
    """Why a deployment that is set to something else than the newest pack of its name does not take it."""
    if current.pack_ref is None:
        return None
    followed = Reference.parse(current.pack_ref)
    if followed is None or followed.name != new.name or followed.number is not None:
        return f"{current.name} is set to {current.pack_ref}; set it to {new.name}@latest to follow new versions"
    if followed.version is not Alias.CHAMPION:
        return None
    best = packs.champion(new.name, current.owner, versions)
    return None if best == new else f"{current.name} follows {current.pack_ref}, which is {best.reference}"


def _not_compared(new: PackVersion, served: str | None) -> str:
    if new.evaluation is None or served is None:
        return f"{new.reference} does not say what it measured; {_BY_HAND}"
    why = new.evaluation.unmeasured_rivals.get(served)
    if why is not None:
        return f"{new.reference} could not be measured beside {served}, which is served: {why}; {_BY_HAND}"
    return (
        f"{new.reference} was not measured beside {served}, which is served: it was not when the job began to "
        "evaluate; deploy it by hand, or adapt again"
    )


def _too_little(found: Comparison, gate: DeployConfig, current: Deployment | None) -> str | None:
    why = shortfall(found, gate)
    if why is None:
        return None
    kind = "acceptance_regression" if found.length < found.old_length else "too little gain"
    keeps = (
        "nothing is deployed" if current is None else f"{current.name} keeps {current.pack or 'the base draft alone'}"
    )
    return f"{kind}: {found.new} has {why}; {keeps}; {_BY_HAND}"
