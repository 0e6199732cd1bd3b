"""The packs resource: versions with what they measured, aliases, the champion, and the version that is pinned.

A pack belongs to the owner of the job that published it; one that no job published is everybody's, and one whose job
has lost its row is seen by an admin alone.
"""

from __future__ import annotations

import logging
from pathlib import Path

from api.auth import Caller
from eda_service.errors import NotFoundError
from eda_service.jobstore import Job, JobStore
from eda_service.names import close_names, did_you_mean
from eda_service.references import Alias, Reference
from eda_service.storage.published import registry
from eda_service.storage.published.gate import Comparison, champion, common
from eda_service.storage.published.packs import PackVersion, read_pack

logger = logging.getLogger(__name__)

_MAX_CLOSE = 32  # names whose owners are looked up where a name is not found


class PackService:
    """Published packs, as callers see them.

    Args:
        store: Knows whose job published what.
        home: Root of the registry.
    """

    def __init__(self, store: JobStore, home: Path) -> None:
        self._store, self._home = store, home

    def names(self, caller: Caller) -> list[str]:
        """Packs of which the caller sees a version."""
        return [name for name in registry.pack_names(self._home) if self._visible(name, caller.sees)]

    def versions(self, name: str, caller: Caller) -> list[PackVersion]:
        """The versions of a pack, oldest first.

        Raises:
            NotFoundError: The caller sees none.
        """
        return self._of_owner(name, caller.sees)

    def resolve(self, reference: str, caller: Caller) -> PackVersion:
        """The version that `name`, `name@3`, `name@latest` or `name@champion` means now; a name alone means the one
        that the caller has pinned, else the newest.

        Raises:
            NotFoundError: None that the caller sees.
        """
        found = Reference.parse(reference)
        if found is None:
            raise NotFoundError(
                f"{reference[:96]!r} names no pack; write name@3, name@latest or name@champion", param="pack"
            )
        versions = self._of_owner(found.name, caller.sees)
        if found.version is None:
            pinned = self._store.deployments.pinned_champion(caller.owner, found.name)
            return next((each for each in versions if each.version == pinned), versions[-1])
        if found.version is Alias.LATEST:
            return versions[-1]
        if found.version is Alias.CHAMPION:
            return self.champion(found.name, caller.owner, versions)
        for each in versions:
            if each.version == found.version:
                return each
        known = ", ".join(str(each.version) for each in versions)
        raise NotFoundError(f"no pack {reference!r}; its versions: {known}", param="pack")

    def champion(self, name: str, owner: str, versions: list[PackVersion]) -> PackVersion:
        """The version that an owner has pinned, else the best measured one.

        Raises:
            NotFoundError: Nothing is pinned, and no version says what it measured.
        """
        pinned = self._store.deployments.pinned_champion(owner, name)
        best = next((each for each in versions if each.version == pinned), None) or champion(versions)
        if best is None:
            raise NotFoundError(
                f"no version of {name} has an evaluation, so none is the champion; name a version, or pin one",
                param="pack",
            )
        return best

    def pinned(self, name: str, caller: Caller) -> int | None:
        """The version that the caller has pinned as champion, if any."""
        return self._store.deployments.pinned_champion(caller.owner, name)

    def pin(self, name: str, version: int | None, caller: Caller) -> None:
        """Pin a version: the name alone and `name@champion` mean it, and no job's pack replaces it where it is served.
        None: the newest, and the best measured one, again. What is changed is told in the events of the job that
        published the version.

        Raises:
            NotFoundError: The caller sees no such version.
        """
        versions = self.versions(name, caller)
        wanted = None if version is None else self.resolve(str(Reference(name, version)), caller)
        before = self._store.deployments.pinned_champion(caller.owner, name)
        self._store.deployments.pin_champion(caller.owner, name, version)
        if before == version:
            return
        for each in versions:
            if each.version == before:
                self.tell(each, "pack_unpinned", f"{caller.owner} unpinned {each.reference}")
        if wanted is not None:
            self.tell(wanted, "pack_pinned", f"{caller.owner} pinned {wanted.reference}")

    def is_pinned_by(self, owner: str, pack: PackVersion) -> bool:
        """Whether an owner has pinned a version."""
        return self._store.deployments.pinned_champion(owner, pack.name) == pack.version

    def tell(self, pack: PackVersion, event: str, message: str) -> None:
        """Write what was done to a pack to the log, and to the events of the job that published it."""
        logger.info(message)
        job = self.job_of(pack)
        if job is not None:
            self._store.events.add(job.id, event, message)

    def published_by(self, owner: str, reference: str) -> tuple[PackVersion, list[PackVersion]]:
        """A version and all that its owner sees of the same pack.

        Raises:
            NotFoundError: It is not in the registry.
        """
        found = Reference.parse(reference)
        if found is None or found.number is None:
            raise NotFoundError(f"{reference[:96]!r} is no name@version of a pack", param="pack")
        return read_pack(found.name, found.number, self._home), self._of_owner(found.name, owner)

    def served(self, reference: str | None) -> PackVersion | None:
        """The version that a deployment has; None without one, or when it is not in the registry any more."""
        found = None if reference is None else Reference.parse(reference)
        if found is None or found.number is None:
            return None
        try:
            return read_pack(found.name, found.number, self._home)
        except NotFoundError:
            return None

    def is_seen(self, pack: Reference, caller: Caller) -> bool:
        """Whether a caller sees a published version."""
        return caller.sees is None or self._is_of(pack.name, pack.number or 0, caller.sees)

    def numbers(self, name: str) -> tuple[int, ...]:
        """Every published version of a pack, whoever sees it."""
        return tuple(registry.pack_versions(name, self._home))

    def best_measured(self, name: str, owner: str) -> PackVersion | None:
        """The version of a pack that an owner's jobs have to beat, whatever is pinned; None without any measured."""
        return champion(self._visible_versions(name, owner))

    def compared(self, new: PackVersion, old: PackVersion, caller: Caller) -> Comparison | None:
        """Two packs in a measurement that both have part in, as far as the caller sees; None without any."""
        others = (each for name in {new.name, old.name} for each in self._visible_versions(name, caller.sees))
        return common(new, old, others)

    def directory(self, pack: PackVersion) -> Path:
        """The files of a version, as they were published."""
        return registry.find_pack(pack.reference, self._home)

    def job_of(self, pack: PackVersion) -> Job | None:
        """The job that published a version, when it is known here."""
        return self._job(pack.name, pack.version)

    def _of_owner(self, name: str, owner: str | None) -> list[PackVersion]:
        found = self._visible_versions(name, owner)
        if not found:
            close = did_you_mean(name, self._close(name, owner))
            raise NotFoundError(f"no pack {name[:96]!r}{close}; GET /v1/packs lists them", param="pack")
        return found

    def _visible_versions(self, name: str, owner: str | None) -> list[PackVersion]:
        return [read_pack(name, version, self._home) for version in self._visible(name, owner)]

    def _close(self, name: str, owner: str | None) -> list[str]:
        """Names of packs that the owner sees and that are like a name."""
        close = close_names(name, registry.pack_names(self._home), num=_MAX_CLOSE)
        return [each for each in close if self._visible(each, owner)]

    def _visible(self, name: str, owner: str | None) -> list[int]:
        versions = registry.pack_versions(name, self._home)
        if owner is None:
            return versions
        return [version for version in versions if self._is_of(name, version, owner)]

    def _is_of(self, name: str, version: int, owner: str) -> bool:
        """Whether an owner sees a version; one whose job has lost its row is nobody's until it is adopted."""
        job = self._job(name, version)
        if job is not None:
            return job.owner == owner
        return registry.pack_job_id(name, version, self._home) is None

    def _job(self, name: str, version: int) -> Job | None:
        job_id = registry.pack_job_id(name, version, self._home)
        if job_id is None:
            return None
        try:
            return self._store.jobs.get(job_id)
        except NotFoundError:
            return None
