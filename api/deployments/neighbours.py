"""What a new deployment does to those on its base, said before it does it.

A model that is alone on its base is merged with its adapter; once a second one shares the base, both decode with
adapters beside it (ADR 0013). Only what the rows say is looked at: an adapter of a kind that cannot be stacked stays
merged, and is told about all the same. Deployments that the caller does not see are left out, as everywhere: what is
said, and whether something is refused, must not tell that they are there.
"""

from __future__ import annotations

from collections.abc import Sequence

from api.auth import Caller
from eda_service.config.job import EngineKind
from eda_service.errors import SlowsOthersError
from eda_service.jobstore import Deployment
from eda_service.raycluster.serve_plan import group_of
from eda_service.targets.files.resolve import shipped_base

UNMERGED_SPEED = 0.66
"""Of a merged model's speed for one answer at a time: 55 of 83 tokens/s (benchmarks/results/variants.json). Sixteen
answers at once are as fast either way."""


def beside(wanted: Deployment, there: Sequence[Deployment], caller: Caller) -> list[Deployment]:
    """The caller's other deployments whose base, replicas and batch it shares, by name."""
    if wanted.engine_spec.kind is not EngineKind.EDA:
        return []
    group = group_of(wanted)
    seen = (each for each in there if caller.sees in {None, each.owner})
    others = (each for each in seen if each.unreadable is None and each.name != wanted.name)
    return [each for each in others if each.engine_spec.kind is EngineKind.EDA and group_of(each) == group]


def require_confirmed(wanted: Deployment, there: Sequence[Deployment], caller: Caller) -> None:
    """Refuse a deployment that slows another one down, until that is confirmed.

    Raises:
        SlowsOthersError: It un-merges the adapter of the one deployment that the caller has on their base.
    """
    others = beside(wanted, there, caller)
    if len(others) == 1 and _has_adapter(others[0]):
        raise SlowsOthersError(
            f"{others[0].name} is the only one of your deployments on its base, with its adapter merged; beside "
            f"{wanted.name} it is not merged and gives one answer at a time at about {UNMERGED_SPEED:g} of its speed "
            "now. To compare, ask it with `draft` (none, base or a pack) in place of a second deployment; to deploy "
            "all the same, send `confirm: true` (`--yes`)",
            param="confirm",
        )


def warnings_of(made: Deployment, there: Sequence[Deployment], caller: Caller) -> list[str]:
    """What sharing a base means for a deployment and for those beside it; nothing where it has the base to itself."""
    others = beside(made, there, caller)
    if not others:
        return []
    names = ", ".join(each.name for each in others)
    warnings = [f"{made.name} shares one base, its replicas and their batch with {names}"]
    if len(others) == 1 and _has_adapter(others[0]):
        warnings.append(
            f"{others[0].name} is no longer merged: one answer at a time comes at about {UNMERGED_SPEED:g} "
            "of its speed before"
        )
    if _has_adapter(made):
        warnings.append(
            f"{made.name} is not merged: alone on its base it would give one answer at a time about "
            f"{1 / UNMERGED_SPEED:.1f} times as fast"
        )
    return warnings


def _has_adapter(deployment: Deployment) -> bool:
    target = deployment.target
    return target.get("adapter") is not None or shipped_base(str(target["model"])) is not None
