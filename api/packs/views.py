"""One version of a pack, and two side by side, in their wire form."""

from __future__ import annotations

from collections.abc import Iterable

from api.auth import Caller
from api.deployments.views import pack_version_body
from api.packs.packs import PackService
from api.packs.schemas import ComparisonBody, PackVersionDetail, RivalBody, ServingBody
from eda_service.errors import NotFoundError
from eda_service.jobstore import Deployment
from eda_service.storage.published.gate import why_apart
from eda_service.storage.published.packs import PackVersion


def version_detail(
    pack: PackVersion, packs: PackService, caller: Caller, deployments: Iterable[Deployment]
) -> PackVersionDetail:
    """Everything that its manifest says.

    Args:
        pack: The version.
        packs: Which one is the champion.
        caller: Who asks.
        deployments: Those that the caller sees.
    """
    manifest = pack.manifest
    try:
        champion = packs.champion(pack.name, caller.owner, packs.versions(pack.name, caller))
    except NotFoundError:
        champion = None
    fixed = None if manifest is None else manifest.fixed
    return PackVersionDetail(
        **pack_version_body(pack, packs).model_dump(),
        pinned=packs.pinned(pack.name, caller) == pack.version,
        champion=champion is not None and champion.version == pack.version,
        metrics={} if manifest is None else manifest.metrics.root,
        rivals=[] if manifest is None else [RivalBody(**each.model_dump()) for each in manifest.rivals],
        unmeasured_rivals={} if manifest is None else manifest.unmeasured_rivals,
        fixed={} if fixed is None else fixed.lengths,
        config={} if manifest is None else manifest.config,
        seed=None if manifest is None else manifest.seed,
        num_trainable=None if manifest is None else manifest.num_trainable,
        base_draft_sha256=None if manifest is None else manifest.base_draft_sha256,
        target_sha256=None if manifest is None else manifest.target.weights_sha256,
        files={} if manifest is None else {each.path: each.sha256 for each in manifest.files},
        library_versions={} if manifest is None else manifest.library_versions,
        deployments=[
            ServingBody(name=each.name, pack_ref=each.pack_ref) for each in deployments if each.pack == pack.reference
        ],
    )


def comparison(pack: PackVersion, other: PackVersion, packs: PackService, caller: Caller) -> ComparisonBody:
    """Two packs in the measurement that has both, or why there is none."""
    found = packs.compared(pack, other, caller)
    return ComparisonBody(
        pack=pack.reference,
        other=other.reference,
        comparable=found is not None,
        reason=why_apart(pack, other) if found is None else found.by,
        acceptance_length=None if found is None else found.length,
        other_acceptance_length=None if found is None else found.old_length,
        gain=None if found is None else found.gain,
        speedup=None if found is None else found.speedup,
        other_speedup=None if found is None else found.old_speedup,
    )
