"""The base drafts that there are: shipped, trained here, imported; and the import of one.

An imported draft belongs to the owner of the job that imported it, as a pack does; every other one is everybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from api.auth import Caller, InsufficientScopeError
from api.jobs.jobs import Jobs, Queued
from api.jobs.schemas_tasks import ImportRequest
from api.jobs.submission import inputs
from api.jobs.submission.targets import Targets
from api.jobs.submission.tasks import TaskChecks
from api.packs.packs import PackService
from api.settings import Settings
from eda_service.config.tasks import JobKind, draft_named_by
from eda_service.errors import (
    ArtifactCorruptError,
    BaseDraftMissingError,
    ConflictError,
    NotFoundError,
)
from eda_service.jobstore import Job, JobStore
from eda_service.names import did_you_mean
from eda_service.records import DraftManifest
from eda_service.references import Alias, Reference
from eda_service.storage.published import registry
from eda_service.storage.published.pack_bases import PackBases

_MAX_TOLD = 5


@dataclass(frozen=True)
class DraftVersion:
    """One version of a base draft.

    Attributes:
        manifest: What it says of itself; None where that cannot be read.
        job_id: The job that imported it, where there was one.
    """

    name: str
    version: int
    is_shipped: bool
    manifest: DraftManifest | None
    job_id: str | None

    @property
    def reference(self) -> str:
        """name@version."""
        return str(Reference(self.name, self.version))


class Drafts(Jobs):
    """Base drafts, as callers see them.

    Args:
        store: Knows whose job imported what.
        settings: Where things are.
        wake: Called when an import was queued.
        packs: What was made over them.
        targets: Looks at submit for what an import names.
        checks: What cluster and hub say of it.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        wake: Callable[[], None],
        packs: PackService,
        targets: Targets,
        checks: TaskChecks,
    ) -> None:
        super().__init__(store, settings, wake, kind=JobKind.IMPORT_DRAFT)
        self._packs, self._targets, self._checks = packs, targets, checks
        self._bases = PackBases(settings.home)

    def create(self, request: ImportRequest, caller: Caller, idempotency_key: str | None) -> tuple[Job, bool]:
        """Check a request for an import and queue it; returns the job and whether it is new.

        Raises:
            InputError: The request cannot work; `param` says why.
            ConflictError: The idempotency key belongs to another request.
            QuotaExceededError: The caller has too many queued jobs.
        """

        def check() -> Queued:
            asked = request.to_config()
            registry.require_own_name(asked.draft_name)
            target = inputs.check_target(asked.target, self._roots, is_whole=False)
            source = inputs.check_draft_source(asked.source, asked.revision, self._roots)
            config = asked.model_copy(update={"target": target, "source": source})
            return self._checks.queued(config, self._targets.look_for_import(config), force=request.force)

        return self._queue(request, caller, idempotency_key, check)

    def versions(self, caller: Caller, *, limit: int, after: str | None) -> tuple[list[DraftVersion], bool]:
        """Drafts by name and version, and whether there are more.

        Raises:
            NotFoundError: `after` is no name@version.
        """
        begin = ("", 0)
        if after is not None:
            found = Reference.parse(after)
            if found is None or found.number is None:
                raise NotFoundError(f"after is {after[:96]!r}, which is no name@version", param="after")
            begin = (found.name, found.number)
        wanted = [each for each in self._all(caller.sees) if each > begin]
        return [self._read(*each) for each in wanted[:limit]], len(wanted) > limit

    def draft(self, reference: str, caller: Caller) -> DraftVersion:
        """One draft; without a version the newest.

        Raises:
            NotFoundError: None that the caller sees.
        """
        try:
            found = self.resolve(reference, caller.sees, param="draft")
        except BaseDraftMissingError as error:
            raise NotFoundError(error.message, param="draft") from error
        return self._read(found.name, found.number or 0)

    def resolve(self, reference: str, sees: str | None, *, param: str = "base_draft") -> Reference:
        """A draft that a request names, with its version.

        Args:
            reference: name@version; without a version the newest.
            sees: Whose drafts are looked at beside everybody's; None: all.
            param: The field that names it.

        Raises:
            BaseDraftMissingError: None that the caller sees, or no such name.
        """
        asked = Reference.parse(reference)
        if asked is None or isinstance(asked.version, Alias):
            raise BaseDraftMissingError(f"{param} is not of the form name@version", param=param)
        versions = self._visible(asked.name, sees)
        if versions and (asked.version is None or asked.version in versions):
            return Reference(asked.name, versions[-1] if asked.version is None else asked.version)
        known = [str(Reference(*each)) for each in self._all(sees)]
        close = did_you_mean(reference, [*known, *sorted({each.partition("@")[0] for each in known})])
        raise BaseDraftMissingError(
            f"no base draft {reference[:96]!r}{close}; available: {', '.join(known) or 'none'}; import one with "
            "`eda drafts import`, or train one with `python -m jobs.train_draft --pretrain`",
            param=param,
        )

    def packs_over(self, draft: DraftVersion, caller: Caller) -> list[str]:
        """Packs that were made over a draft and that the caller sees, name@version."""
        return [str(pack) for pack in self._bases.over(draft.reference) if self._packs.is_seen(pack, caller)]

    def delete(self, reference: str, caller: Caller) -> str:
        """Remove a registered draft that nothing uses; returns its name@version.

        Raises:
            NotFoundError: None that the caller sees.
            InsufficientScopeError: It is everybody's, and the caller is no admin.
            ConflictError: It comes with the package, or a pack, a live job or a deployment uses it.
        """
        draft = self.draft(reference, caller)
        if draft.is_shipped:
            raise ConflictError(f"{draft.reference} comes with the package and cannot be removed", param="draft")
        if draft.job_id is None and caller.sees is not None:
            raise InsufficientScopeError(
                f"{draft.reference} was imported by no job, so that it is everybody's; ask an admin to remove it",
                param="draft",
            )
        users = self._users(draft)

        def is_used() -> bool:
            """Asked again once nobody finds the draft: a job that has found it before is in the queue by now, or sees
            after it was queued that the draft is gone (`Jobs._still_there`).
            """
            users[:] = self._users(draft)
            return bool(users)

        home = self._settings.home
        if users or not registry.delete_draft(draft.name, draft.version, home, is_used=is_used):
            more = f" and {len(users) - _MAX_TOLD} more" if len(users) > _MAX_TOLD else ""
            raise ConflictError(
                f"{draft.reference} is used by {', '.join(users[:_MAX_TOLD])}{more}; remove those, or let them end",
                param="draft",
            )
        return draft.reference

    def _users(self, draft: DraftVersion) -> list[str]:
        """Everything that needs a draft: packs over it, live jobs, deployments."""
        # First the jobs: one that ends meanwhile has published its pack by the time the packs are looked at.
        found = [f"job {job.id}" for job in self._store.jobs.live() if _needs(job, draft)]
        found += [f"pack {pack}" for pack in self._bases.over(draft.reference)]
        deployed = (each for each in self._store.deployments.all() if each.base_draft == draft.reference)
        return found + [f"deployment {each.name}" for each in deployed]

    def _all(self, sees: str | None) -> list[tuple[str, int]]:
        home = self._settings.home
        return [(name, version) for name in registry.draft_names(home) for version in self._visible(name, sees)]

    def _visible(self, name: str, sees: str | None) -> list[int]:
        versions = registry.draft_versions(name, self._settings.home)
        if sees is None:
            return versions
        return [version for version in versions if self._is_of(name, version, sees)]

    def _is_of(self, name: str, version: int, owner: str) -> bool:
        """Whether an owner sees a version; one whose job has lost its row is nobody's until it is adopted."""
        if registry.is_shipped(name, version):
            return True
        job_id = registry.draft_job_id(name, version, self._settings.home)
        if job_id is None:
            return True
        try:
            return self._store.jobs.get(job_id).owner == owner
        except NotFoundError:
            return False

    def _read(self, name: str, version: int) -> DraftVersion:
        home = self._settings.home
        try:
            manifest = registry.find_draft_manifest(Reference(name, version), home)
        except (ArtifactCorruptError, BaseDraftMissingError):
            manifest = None
        is_shipped = registry.is_shipped(name, version)
        job_id = None if is_shipped else registry.draft_job_id(name, version, home)
        return DraftVersion(name, version, is_shipped, manifest, job_id)


def target_of(draft: DraftVersion) -> str | None:
    """The base target that a draft was imported or trained for, as its manifest says it."""
    target = None if draft.manifest is None else draft.manifest.config.get("target")
    return str(target["model"]) if isinstance(target, dict) and "model" in target else None


def _needs(job: Job, draft: DraftVersion) -> bool:
    """Whether a job names a draft, which without a version may be any, or is about to end with having imported it."""
    if job.id == draft.job_id:
        return True
    named = draft_named_by(job.task())
    reference = None if named is None else Reference.parse(named)
    return reference is not None and reference.name == draft.name and reference.number in (None, draft.version)
