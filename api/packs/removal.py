"""Removing a published version of a pack: only by its owner, and only while nothing uses it."""

from __future__ import annotations

from api.auth import Caller, InsufficientScopeError
from api.packs.packs import PackService
from api.settings import Settings
from eda_service.config.tasks import ExportConfig, MeasureConfig
from eda_service.errors import ConflictError
from eda_service.jobstore import Job, JobStore, load_of
from eda_service.references import Reference
from eda_service.storage.published import registry
from eda_service.storage.published.packs import PackVersion

_MAX_TOLD = 5


class PackRemoval:
    """Removes packs.

    Args:
        store: Jobs, deployments and pins.
        packs: What there is.
        settings: Where the registry is.
    """

    def __init__(self, store: JobStore, packs: PackService, settings: Settings) -> None:
        self._store, self._packs, self._home = store, packs, settings.home

    def remove(self, reference: str, caller: Caller) -> str:
        """Remove a version that nothing uses; returns its name@version. Its number is not given again.

        Raises:
            NotFoundError: The caller sees no such version.
            InsufficientScopeError: It is everybody's, and the caller is no admin.
            ConflictError: A deployment, a live job or a pin uses it, or no version was named.
        """
        asked = Reference.parse(reference)
        pack = self._packs.resolve(reference, caller)
        if asked is None or asked.number is None:
            raise ConflictError(
                f"{reference} means {pack.reference} now and may mean another one tomorrow; name the version to remove",
                param="pack",
            )
        if caller.sees is not None and self._packs.job_of(pack) is None:
            raise InsufficientScopeError(
                f"{pack.reference} was published by no job, so that it is everybody's; ask an admin to remove it",
                param="pack",
            )
        users = self._users(pack, caller)

        def is_used() -> bool:
            """Asked again once nobody finds the pack: what found it a moment ago may use it by now."""
            users[:] = self._users(pack, caller)
            return bool(users)

        if users or not registry.delete_pack(pack.name, pack.version, self._home, is_used=is_used):
            more = f" and {len(users) - _MAX_TOLD} more" if len(users) > _MAX_TOLD else ""
            raise ConflictError(
                f"{pack.reference} is used by {', '.join(users[:_MAX_TOLD])}{more}; remove those, let them end, or "
                f"unpin it with `eda packs pin {pack.name} --off`",
                param="pack",
            )
        self._packs.tell(pack, "pack_removed", f"{caller.owner} removed {pack.reference}")
        return pack.reference

    def _users(self, pack: PackVersion, caller: Caller) -> list[str]:
        """Everything that needs a pack. What is another owner's is not named."""
        # First the jobs: the one that publishes it has deployed it by the time that the deployments are looked at.
        named = [(f"job {job.id}", job.owner) for job in self._store.jobs.live() if self._needs(job, pack)]
        loads = self._store.loads.all()
        for each in self._store.deployments.all():
            meanwhile = load_of(loads, each.name).serves  # while what is wanted does not load
            if pack.reference in {each.pack, each.pack_ref, None if meanwhile is None else meanwhile.pack}:
                named.append((f"deployment {each.name}", each.owner))
        named += [(f"a pin of {owner}", owner) for owner in self._store.deployments.pinned_by(pack.name, pack.version)]
        found = [what for what, owner in named if caller.sees in {None, owner}]
        hidden = len(named) - len(found)
        return [*found, *([f"{hidden} of other owners"] if hidden else [])]

    def _needs(self, job: Job, pack: PackVersion) -> bool:
        """Whether a live job is about to end with having published a pack, or measures or exports it."""
        published_by = self._packs.job_of(pack)
        if published_by is not None and published_by.id == job.id:
            return True
        task = job.task()
        return isinstance(task, MeasureConfig | ExportConfig) and task.pack in {pack.name, pack.reference}
