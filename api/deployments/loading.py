"""Watches how deployments load: each failure is an event with its reason, and what cannot load is not tried for ever.

A failure that lies in the model is the last one. One that lies in the machine (memory, a node, a disk, a connection) is
followed by another attempt after a growing delay, up to `MAX_ATTEMPTS`. Level-triggered: replicas say which attempt
has failed, rows say which counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from api.deployments.replicas import FailedVariant, LoadedGroup, LoadedVariant, ReplicaClient
from eda_service.jobstore import Content, Deployment, JobStore, Load, load_of
from eda_service.raycluster.serve_api import Application
from eda_service.raycluster.serve_plan import application_of, group_of, models_of

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
_FIRST_DELAY_S = 10
_DELAY_GROWS = 3
_MAX_REASON_CHARACTERS = 1000


def delay_s(num_failures: int) -> int:
    """Seconds from a failure to the next attempt: 10, 30, 90, 270.

    Args:
        num_failures: One after another, this one included.
    """
    return int(_FIRST_DELAY_S * _DELAY_GROWS ** (num_failures - 1))


def is_of(found: LoadedVariant | FailedVariant, wanted: Deployment) -> bool:
    """Whether a replica speaks of the version that is wanted."""
    return (found.uid, found.pack, found.base_draft) == (wanted.uid, wanted.pack, wanted.base_draft)


class LoadWatch:
    """One look at everything that is not known to be loaded.

    Args:
        store: Where attempts are counted.
        replicas: Say what they have loaded, and what not.
        changed: Called when something else is to be served than before.
    """

    def __init__(self, store: JobStore, replicas: ReplicaClient, changed: Callable[[], None]) -> None:
        self._store, self._replicas, self._changed = store, replicas, changed
        self._settled: dict[str, tuple[int, int]] = {}  # revision and attempt that are loaded, by uid

    def run_once(self, applications: Mapping[str, Application]) -> None:
        """Ask the replicas of what is still loading, and begin the attempts whose time has come.

        Args:
            applications: Serve's word.
        """
        wanted, loads = self._store.deployments.all(), self._store.loads.all()
        uids = {each.uid for each in wanted}
        self._settled = {uid: known for uid, known in self._settled.items() if uid in uids}
        loading: dict[str, list[tuple[Deployment, Load]]] = {}
        for each in wanted:
            load = load_of(loads, each.name)
            if load.is_waiting:
                self._begin_next(each, load)
            elif not load.has_given_up and self._settled.get(each.uid) != (each.revision, load.attempt):
                loading.setdefault(group_of(each), []).append((each, load))
        for key, members in loading.items():
            application = applications.get(application_of(key))
            if application is not None:
                self._look(key, members, application)

    def _begin_next(self, wanted: Deployment, load: Load) -> None:
        if self._store.loads.begin_next(wanted.name, wanted.uid, load.attempt):
            logger.info("loading %s again", wanted.name)
            self._changed()

    def _look(self, key: str, members: Sequence[tuple[Deployment, Load]], application: Application) -> None:
        """One group."""
        if application.num_running:
            group = self._replicas.loaded(key)
            for wanted, load in members if group is not None else ():
                self._compare(wanted, load, group or LoadedGroup())
        elif application.status == "DEPLOY_FAILED":
            failed = _attempts_of(application)
            for wanted, load in members:
                if failed.get(wanted.uid) == load.attempt:
                    reason = f"no replica could start: {application.message}"[:_MAX_REASON_CHARACTERS]
                    failure = FailedVariant(
                        name=wanted.name, uid=wanted.uid, reason=reason, code="replica_failed", may_pass=True
                    )
                    self._note(wanted, load, failure, serves=None)

    def _compare(self, wanted: Deployment, load: Load, group: LoadedGroup) -> None:
        """One deployment with what a replica of its group has."""
        variant = group.variant(wanted.uid)
        if variant is not None and is_of(variant, wanted):
            self._settled[wanted.uid] = wanted.revision, load.attempt
            if load.num_failures and self._store.loads.record_loaded(wanted.name, wanted.uid, load.attempt):
                logger.info("%s is loaded after %d failures", wanted.name, load.num_failures)
            return
        for failed in group.failed:
            if is_of(failed, wanted) and failed.attempt == load.attempt:
                self._note(wanted, load, failed, serves=None if variant is None else self._version(wanted, variant))

    def _version(self, wanted: Deployment, variant: LoadedVariant) -> Content | None:
        """The newest revision that what a replica serves is of."""
        for each in self._store.deployments.revisions(wanted.name):
            if (each.pack, each.base_draft) == (variant.pack, variant.base_draft):
                return Content.model_validate(each)
        return None

    def _note(self, wanted: Deployment, load: Load, failed: FailedVariant, *, serves: Content | None) -> None:
        num_failures = load.num_failures + 1
        retry_in_s = delay_s(num_failures) if failed.may_pass and num_failures < MAX_ATTEMPTS else None
        message = f"{failed.reason}; {_next_step(wanted.name, num_failures, retry_in_s, failed.may_pass)}"
        if serves is not None:
            message += f"; {serves.pack or serves.base_draft or 'the version before'} answers as before"
        data = {"attempt": load.attempt, "num_failures": num_failures, "code": failed.code, "pack": wanted.pack}
        is_new = self._store.loads.record_failure(
            wanted.name,
            wanted.uid,
            load.attempt,
            reason=failed.reason,
            message=message,
            data={**data, "base_draft": wanted.base_draft, "retry_in_s": retry_in_s},
            retry_in_s=retry_in_s,
            serves=serves,
        )
        if is_new:
            logger.error("%s does not load: %s", wanted.name, message)
            self._changed()


def _next_step(name: str, num_failures: int, retry_in_s: int | None, may_pass: bool) -> str:
    if retry_in_s is not None:
        return f"attempt {num_failures} of {MAX_ATTEMPTS}, the next in {retry_in_s} s"
    tried = f"attempt {num_failures} of {MAX_ATTEMPTS}, the last; " if may_pass else ""
    return f"{tried}put that right, then `eda deployments restart {name}`"


def _attempts_of(application: Application) -> dict[str, int]:
    """Which attempts an application is about, by uid, as Serve remembers its config."""
    models = [] if application.config is None else models_of(application.config)
    return {str(each.get("uid")): int(each.get("attempt", 0)) for each in models}
