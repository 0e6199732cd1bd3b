"""Who may choose what drafts for a request: those who may change its deployment, among what they have on its base."""

from __future__ import annotations

from api.auth import Caller, InsufficientScopeError
from api.endpoint.protocol.requests import BASE_ALONE, NO_DRAFT
from api.gateway.directory import Directory, Entry
from eda_service.errors import RequestError
from eda_service.raycluster.serve_plan import group_of
from eda_service.scopes import Scope


def require_may_choose(draft: str | None, entry: Entry, caller: Caller, directory: Directory) -> None:
    """Refuse a request's `draft` that is not its sender's to choose.

    Raises:
        InsufficientScopeError: The caller may ask the deployment, and not change it.
        RequestError: No deployment that the caller sees serves that pack on the same base.
    """
    if draft is None:
        return
    if not caller.scopes & {Scope.JOBS_WRITE, Scope.ADMIN}:
        raise InsufficientScopeError(
            f"draft: what drafts for a request is chosen by those who may change the deployment, and the key lacks the "
            f"scope {Scope.JOBS_WRITE.value}; leave draft out, or use a key of {entry.deployment.owner} that has it",
            param="draft",
        )
    if draft in {NO_DRAFT, BASE_ALONE}:
        return
    group = group_of(entry.deployment)
    if all(each.pack != draft or group_of(each) != group for each in directory.deployments(caller)):
        raise RequestError(
            f"draft: you have no deployment beside {entry.deployment.name} that serves {draft[:128]!r}; give "
            f"{NO_DRAFT}, {BASE_ALONE}, or name@version of a pack that you serve on the same base",
            param="draft",
        )
