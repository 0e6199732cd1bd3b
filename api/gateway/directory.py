"""The names that each caller may use at the endpoint, and the path of the group that answers each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from api.auth import Caller
from eda_service.errors import ModelNotFoundError
from eda_service.jobstore import Deployment, JobStore, Load, served_version
from eda_service.raycluster.serve_plan import group_of, route_prefix_of

_MAX_AGE_S = 1.0
_NOTHING = "nothing is served yet; `eda adapt` or `eda deployments create` serves a target"
_SHOWN_NAMES = 20


@dataclass(frozen=True)
class Entry:
    """A served name and the path prefix of its group.

    Attributes:
        failure: Reason why the deployment has failed for good; None while it can answer.
    """

    deployment: Deployment
    route_prefix: str
    failure: str | None = None


class Directory:
    """Reads the rows at most once a second, after each change that this process makes, and before it reports a name as
    unknown. A change that another API process makes is seen within a second.

    Args:
        store: Rows of the database.
        clock: Clock in seconds that never goes back.
    """

    def __init__(self, store: JobStore, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._entries: dict[str, Entry] = {}
        self._read_at = float("-inf")
        self._num_changes = 0

    def forget(self) -> None:
        """Read the rows anew at the next call, because they have changed."""
        self._num_changes += 1
        self._read_at = float("-inf")

    def names(self, caller: Caller) -> list[str]:
        """List the deployments that the caller may use, by name."""
        self._read()
        return [name for name, entry in self._entries.items() if _may_use(entry, caller)]

    def deployments(self, caller: Caller) -> list[Deployment]:
        """Return the deployments that the caller may use."""
        return [self._entries[name].deployment for name in self.names(caller)]

    def known(self, name: str, caller: Caller) -> Entry | None:
        """Return a name's entry if it was read less than a second ago; the database is not asked."""
        entry = self._entries.get(name)
        fresh = self._clock() - self._read_at < _MAX_AGE_S
        return entry if fresh and entry is not None and _may_use(entry, caller) else None

    def find(self, name: str, caller: Caller) -> Entry:
        """Return a name's entry as it is in the database now.

        Raises:
            ModelNotFoundError: No deployment has this name, or it belongs to another owner.
        """
        names = self.names(caller)
        if name in names:
            return self._entries[name]
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        there = f"there is {', '.join(names[:_SHOWN_NAMES])}{more}" if names else _NOTHING
        raise ModelNotFoundError(
            f"the model {name[:96]!r} does not exist, or you may not use it; {there}", param="model"
        )

    def _read(self) -> None:
        before, began_at = self._num_changes, self._clock()
        entries: dict[str, Entry] = {}
        loads = self._store.loads.all()
        for each in self._store.deployments.all(unreadable=True):
            if each.unreadable is None:
                entries[each.name] = _entry(each, loads.get(each.name))
            elif (known := self._entries.get(each.name)) is not None and known.deployment.owner == each.owner:
                entries[each.name] = known  # its replicas go on as they were before the row was damaged
        self._entries = entries
        if self._num_changes == before:  # else these rows may be older than a change
            self._read_at = began_at


def _entry(wanted: Deployment, load: Load | None) -> Entry:
    served = served_version(wanted, load)
    prefix = route_prefix_of(group_of(served or wanted))
    return Entry(wanted, prefix, failure=load.reason if served is None and load is not None else None)


def _may_use(entry: Entry, caller: Caller) -> bool:
    return caller.sees is None or entry.deployment.owner == caller.sees
