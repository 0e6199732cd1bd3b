"""The target of a deployment that is asked for: the one that is named, else the one that its pack was made for."""

from __future__ import annotations

from api.deployments.schemas import DeploymentRequest
from eda_service.config.job import TargetSpec
from eda_service.errors import InputError
from eda_service.storage.published.packs import PackVersion, target_of


def asked_target(request: DeploymentRequest, pack: PackVersion | None) -> TargetSpec:
    """The target of a request; what it says of adapter, revision and dtype changes the pack's own.

    Raises:
        InputError: There is none.
    """
    given = request.model_dump(include={"model", "adapter", "revision", "dtype"}, exclude_none=True)
    if request.model is not None:
        return TargetSpec.model_validate(given)
    if pack is None:
        raise InputError("model is missing; name the target, or a pack, which knows its own", param="model")
    own = None if pack.manifest is None else target_of(pack.manifest)
    if own is None:
        raise InputError(f"{pack.reference} does not say which target it was made for; name it", param="model")
    return own.model_copy(update={name: value for name, value in given.items() if name in request.model_fields_set})
