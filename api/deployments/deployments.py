"""The deployments resource: make, change, roll back, remove. It changes rows; the dispatcher makes Serve follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypedDict

from pydantic import ValidationError

from api.auth import Caller
from api.deployments.asked_target import asked_target
from api.deployments.neighbours import require_confirmed, warnings_of
from api.deployments.schemas import DeploymentChange, DeploymentRequest, Replicas, RollbackRequest, replica_range
from api.drafts.drafts import Drafts
from api.errors import config_error
from api.jobs.submission import inputs
from api.jobs.submission.targets import Targets
from api.packs.packs import PackService
from api.settings import Settings
from eda_service.config.deployment import DriftConfig, EngineSpec
from eda_service.config.job import AdaptConfig, EngineKind, TargetSpec
from eda_service.engines.vllm_environment import missing
from eda_service.errors import (
    ArtifactCorruptError,
    ConflictError,
    DatasetInvalidError,
    InputError,
    NameTakenError,
    NotFoundError,
    PackNotComparedError,
    QuotaExceededError,
    StaleDeploymentError,
    WorsePackError,
)
from eda_service.jobstore import Deployment, DeploymentEvent, JobStore, Revision
from eda_service.names import did_you_mean
from eda_service.storage.published.gate import Comparison, beside_base, regression
from eda_service.storage.published.packs import PackVersion
from eda_service.storage.samples import prompts

_MAX_REVISIONS = 10_000
_ATTEMPTS = 5
_COMPARED = ("target", "base_draft", "pack", "min_replicas", "max_replicas", "round_ms", "engine", "labels", "drift")


class _PackFields(TypedDict):
    """What of a deployment goes by its pack."""

    pack: str | None
    pack_ref: str | None
    job_id: str | None


class _ScaleFields(TypedDict):
    """What of a deployment says how many replicas it has."""

    min_replicas: int
    max_replicas: int
    round_ms: int | None


class DeploymentService:
    """Deployments, as callers see them: another owner's does not exist, but its name is taken.

    Args:
        store: The rows.
        packs: What may be deployed.
        drafts: What they are made over, and what may be deployed alone.
        settings: Where things are.
        targets: Looks at the files of what is to be served.
        changed: Called after a change, so that nobody goes by what was there before.
    """

    def __init__(
        self,
        store: JobStore,
        packs: PackService,
        drafts: Drafts,
        settings: Settings,
        targets: Targets,
        changed: Callable[[], None],
    ) -> None:
        self._store, self._packs, self._drafts = store, packs, drafts
        self._settings, self._changed = settings, changed
        self._targets = targets
        self._roots = settings.roots

    def create(self, request: DeploymentRequest, caller: Caller) -> tuple[Deployment, bool]:
        """Deploy something; returns it and whether it is new (else an equal one was there).

        Raises:
            InputError: The request cannot work; `param` says why.
            EngineMissingError: vLLM is not there.
            NameTakenError: Something else has that name.
            WorsePackError: The pack measured less than its base draft alone.
            QuotaExceededError: The caller has as many deployments as one owner may.
            SlowsOthersError: Another deployment gets slower by it, and `confirm` is not set.
        """
        pack = None if request.pack is None else self._packs.resolve(request.pack, caller)
        wanted = self._deployment_of(request, pack, caller)
        equal = self._equal(wanted, caller)
        if equal is not None:
            with suppress(ConflictError):  # what has not failed goes on
                self.restart(equal.name, caller)
            return equal, False
        if pack is not None and not request.force:
            _require_no_regression(beside_base(pack))
        self._require_room(caller)
        if not request.confirm:
            require_confirmed(wanted, self._store.deployments.all(unreadable=True), caller)
        self._targets.check_deployed(TargetSpec.model_validate(wanted.target), request.engine)
        try:
            made = self._store.deployments.put(wanted, made_by=caller.owner, reason="created")
        except StaleDeploymentError as error:
            equal = self._equal(wanted, caller)  # the same request, sent twice at once
            if equal is not None:
                return equal, False
            raise NameTakenError(
                f"the name {wanted.name!r} is taken; change that deployment if it is yours, or choose another name",
                param="name",
            ) from error
        self._changed()
        return made, True

    def warnings(self, made: Deployment, caller: Caller) -> list[str]:
        """What a deployment that was just made does to those on its base."""
        return warnings_of(made, self._store.deployments.all(unreadable=True), caller)

    def settle(self) -> None:
        """Bring what was kept for deployments by their names, before they had uids, to where it belongs."""
        for each in self._store.deployments.all():
            if not each.has_own_uid:
                prompts.take_over(self._settings.home, each.name, each.uid)

    def seen(self, caller: Caller) -> list[Deployment]:
        """Every deployment that the caller sees and that can be read."""
        return self._store.deployments.all(owner=caller.sees)

    def page(self, caller: Caller, *, limit: int, after: str | None) -> tuple[list[Deployment], bool]:
        """Deployments by name, and whether there are more."""
        found = self._store.deployments.all(owner=caller.sees, unreadable=True)
        found = [each for each in found if after is None or each.name > after]
        return found[:limit], len(found) > limit

    def get(self, name: str, caller: Caller) -> Deployment:
        """One deployment."""
        with self._suggesting(name, caller):
            return self._store.deployments.get(name, owner=caller.sees)

    def history(self, name: str, caller: Caller) -> list[Revision]:
        """Its newest hundred revisions, newest first."""
        return self._store.deployments.revisions(name, owner=caller.sees)

    def events(self, name: str, caller: Caller, *, before: int, limit: int) -> tuple[list[DeploymentEvent], bool]:
        """What happened to it, newest first, and whether there is more."""
        with self._suggesting(name, caller):
            return self._store.drifts.events(name, owner=caller.sees, before=before, limit=limit)

    def kept_prompts(self, name: str, caller: Caller) -> list[str]:
        """The newest prompts that the replicas of a deployment have kept, as rows of a prompt file.

        Raises:
            NotFoundError: The caller sees no such deployment.
            DatasetInvalidError: It keeps none, or has kept none yet.
        """
        found = self.get(name, caller)
        wanted = int(found.drift.get("keep_prompts") or 0)
        rows = prompts.newest(self._settings.home, found.uid, wanted) if wanted else []
        if not rows:
            raise DatasetInvalidError(
                f"{found.name} has kept no prompts; set drift.keep_prompts, and wait until it was asked", param="kept"
            )
        return [json.dumps({"messages": row["messages"]}) for row in rows]

    def change(self, name: str, request: DeploymentChange, caller: Caller) -> Deployment:
        """Swap the pack, or change replicas, labels or drift settings. What changes nothing makes no revision.

        Raises:
            WorsePackError: The pack measured less than the one that is served.
            PackNotComparedError: No measurement has both.
        """
        given = request.model_fields_set

        def changed(current: Deployment) -> tuple[Deployment, str]:
            wanted = self._swapped(current, request, caller) if "pack" in given else current
            if request.replicas is not None:
                wanted = wanted.model_copy(update=_scale(request.replicas))
            if request.labels is not None:
                wanted = wanted.model_copy(update={"labels": request.labels})
            if request.drift is not None:
                wanted = wanted.model_copy(update={"drift": _changed_drift(current, request.drift)})
            told = ", ".join(sorted(given & {"pack", "replicas", "labels", "drift"})) or "nothing"
            return wanted, request.reason or f"changed {told}"

        return self._update(name, caller, changed)

    def rollback(self, name: str, request: RollbackRequest, caller: Caller) -> Deployment:
        """Serve again what an earlier revision served. The pack is then set to its version: no job replaces it.

        Raises:
            NotFoundError: No such revision, or its pack is gone.
            ConflictError: Nothing else was ever served.
        """

        def changed(current: Deployment) -> tuple[Deployment, str]:
            earlier = self._earlier(current, request.revision)
            if earlier.pack is not None:
                self._packs.resolve(earlier.pack, caller)
            if earlier.base_draft is not None:
                self._drafts.resolve(earlier.base_draft, caller.sees)
            content = earlier.content | {"pack_ref": earlier.pack}
            return current.model_copy(update=content), request.reason or f"rolled back to revision {earlier.revision}"

        return self._update(name, caller, changed)

    def restart(self, name: str, caller: Caller) -> Deployment:
        """Load what could not be loaded once more, from its first attempt.

        Raises:
            ConflictError: It has not failed.
        """
        with self._suggesting(name, caller):
            self._store.loads.restart(name, owner=caller.sees, made_by=caller.owner)
        self._changed()
        return self.get(name, caller)

    def delete(self, name: str, caller: Caller) -> None:
        """Stop serving; running requests end, the packs stay, kept prompts go."""
        with self._suggesting(name, caller):
            gone = self._store.deployments.delete(name, owner=caller.sees)
        prompts.forget(self._settings.home, gone.uid)
        if not gone.has_own_uid:
            prompts.forget(self._settings.home, gone.name)  # frozen files from before there were uids
        self._changed()

    @contextmanager
    def _suggesting(self, name: str, caller: Caller) -> Iterator[None]:
        """Name the caller's deployments that are like one that is not there."""
        try:
            yield
        except NotFoundError as error:
            known = [each.name for each in self._store.deployments.all(owner=caller.sees)]
            close = did_you_mean(name, known)
            raise NotFoundError(
                f"no deployment {name[:96]!r}{close}; GET /v1/deployments lists them", param=error.param
            ) from error

    def _update(self, name: str, caller: Caller, changed: Callable[[Deployment], tuple[Deployment, str]]) -> Deployment:
        for _ in range(_ATTEMPTS):
            current = self.get(name, caller)
            _require_readable(current)
            wanted, reason = changed(current)
            if wanted == current:
                return current
            try:
                stored = self._store.deployments.put(wanted, made_by=caller.owner, reason=reason)
            except StaleDeploymentError:
                continue  # somebody else was faster: the change is made from what is there now
            self._changed()
            return stored
        raise ConflictError(f"deployment {name} is being changed by others all the time; try again later", param="name")

    def _deployment_of(self, request: DeploymentRequest, pack: PackVersion | None, caller: Caller) -> Deployment:
        target = inputs.check_target(asked_target(request, pack), self._roots)
        of_pack = None if request.model is not None or pack is None else pack.name
        return Deployment(
            name=request.name or of_pack or AdaptConfig(target=target).public_name,
            owner=caller.owner,
            target=target.model_dump(mode="json"),
            base_draft=self._base_draft(request, pack, caller),
            engine=self._engine(request),
            labels=request.labels,
            drift=request.drift.model_dump(mode="json", exclude_defaults=True),
            **_scale(request.replicas),
            **self._of_pack(pack, request.pack),
        )

    def _engine(self, request: DeploymentRequest) -> dict[str, Any]:
        try:
            engine = EngineSpec(kind=request.engine, accelerator=request.accelerator, vllm=request.vllm)
        except ValidationError as error:
            raise InputError(config_error(error).message, param="engine") from error
        if engine.kind is EngineKind.VLLM and not self._settings.has_vllm:
            raise missing("where this service runs", param="engine")
        return engine.model_dump(mode="json", exclude_defaults=True)

    def _swapped(self, current: Deployment, request: DeploymentChange, caller: Caller) -> Deployment:
        if request.pack is None:
            return current.model_copy(update=self._of_pack(None, None))
        pack = self._packs.resolve(request.pack, caller)
        swapped = current.model_copy(update=self._of_pack(pack, request.pack))
        if pack.reference == current.pack:
            return swapped
        if not request.force:
            self._require_no_worse(pack, current, caller)
        if pack.manifest is None:
            return swapped
        return swapped.model_copy(update={"base_draft": pack.manifest.base_draft})

    def _require_no_worse(self, pack: PackVersion, current: Deployment, caller: Caller) -> None:
        served = self._packs.served(current.pack)
        if served is None:  # the base draft alone, or a pack that is gone
            _require_no_regression(beside_base(pack))
            return
        found = self._packs.compared(pack, served, caller)
        if found is None:
            raise PackNotComparedError(
                f"{pack.reference} and {served.reference}, which {current.name} serves, have no measurement in common; "
                "`force` deploys it all the same, and a job that adapts again measures both",
                param="pack",
            )
        _require_no_regression(found)

    def _of_pack(self, pack: PackVersion | None, written: str | None) -> _PackFields:
        if pack is None:
            return {"pack": None, "pack_ref": None, "job_id": None}
        job = self._packs.job_of(pack)
        return {"pack": pack.reference, "pack_ref": written, "job_id": None if job is None else job.id}

    def _base_draft(self, request: DeploymentRequest, pack: PackVersion | None, caller: Caller) -> str | None:
        made_with = None if pack is None or pack.manifest is None else pack.manifest.base_draft
        if "base_draft" not in request.model_fields_set:
            default = str(AdaptConfig.model_fields["base_draft"].default)
            return str(self._drafts.resolve(made_with or default, None if made_with else caller.sees))
        asked = None if request.base_draft is None else str(self._drafts.resolve(request.base_draft, caller.sees))
        if pack is not None and (asked is None or (made_with is not None and asked != made_with)):
            raise InputError(
                f"pack {pack.reference} was trained beside {made_with}, not {asked}; leave base_draft out",
                param="base_draft",
            )
        return asked

    def _equal(self, wanted: Deployment, caller: Caller) -> Deployment | None:
        try:
            there = self._store.deployments.get(wanted.name, owner=caller.owner)
        except NotFoundError:
            return None
        return there if all(getattr(there, field) == getattr(wanted, field) for field in _COMPARED) else None

    def _require_room(self, caller: Caller) -> None:
        found = len(self._store.deployments.all(owner=caller.owner, unreadable=True))
        limit = self._settings.max_deployments_per_owner
        if found >= limit:
            raise QuotaExceededError(f"{found} deployments are this owner's and the limit is {limit}; delete one")

    def _earlier(self, current: Deployment, number: int | None) -> Revision:
        history = self._store.deployments.revisions(current.name, limit=_MAX_REVISIONS)
        if number is not None:
            for each in history:
                if each.revision == number:
                    return each
            raise NotFoundError(
                f"{current.name} has no revision {number}; its last is {current.revision}", param="revision"
            )
        served = (current.target, current.base_draft, current.pack)
        for each in history:
            if (each.target, each.base_draft, each.pack) != served:
                return each
        raise ConflictError(f"{current.name} never served anything else; there is nothing to go back to")


def _require_readable(deployment: Deployment) -> None:
    if deployment.unreadable is not None:
        raise ArtifactCorruptError(
            f"the row of {deployment.name} cannot be read ({deployment.unreadable}), so it cannot be changed; "
            "delete it and make it again"
        )


def _require_no_regression(found: Comparison | None) -> None:
    why = None if found is None else regression(found)
    if why is not None:
        raise WorsePackError(f"{why}; `force` deploys it anyway", param="pack")


def _scale(replicas: Replicas) -> _ScaleFields:
    wanted = replica_range(replicas)
    return {"min_replicas": wanted.min, "max_replicas": wanted.max, "round_ms": wanted.round_ms}


def _changed_drift(current: Deployment, changes: dict[str, Any]) -> dict[str, Any]:
    try:
        return DriftConfig.model_validate({**current.drift, **changes}).model_dump(mode="json", exclude_defaults=True)
    except ValidationError as error:
        invalid = config_error(error)
        raise InputError(f"drift: {invalid.message}", param="drift") from error
