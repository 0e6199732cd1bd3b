"""Finds run directories, packs and events that have no row in the database, reports them, and writes the rows anew.

A row is written before its run directory, so if a run directory of the API has no row, the row was lost: with an older
copy of the database, or because somebody deleted it. Whether the job still runs, and how it ended, is then found by the
tracker, as for any other job.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable

from pydantic import ValidationError

from api.settings import Settings
from api.troubles import Troubles
from eda_service.config.job import AdaptConfig
from eda_service.errors import EdaError, StorageError
from eda_service.ids import JOB_ID_PATTERN
from eda_service.jobstore import JobStore, Status
from eda_service.planning.placement import need_of
from eda_service.references import Reference
from eda_service.storage.place import current_place
from eda_service.storage.published import registry
from eda_service.storage.runs.job_row_fields import JobRowFields
from eda_service.storage.runs.run import RunDir
from eda_service.storage.runs.state import EventLine, JobFile, Succeeded

logger = logging.getLogger(__name__)

_EVERYTHING_INTERVAL_S = 3600.0
_JOB_ID = re.compile(JOB_ID_PATTERN)
_NO_ROW = "its row was not in the database any more"


class Adopter:
    """Looks for jobs without a row.

    Args:
        store: Jobs and the other rows of the database.
        settings: Settings that say where the files are.
        clock: Clock in seconds since the epoch.
    """

    def __init__(self, store: JobStore, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._settings, self._clock = store, settings, clock
        self._known: set[str] = set()
        self._listed_at = self._all_at = 0.0
        self._troubles = Troubles(logger)

    def run_once(self) -> None:
        """Adopt all jobs without a row. Once an hour examine every directory again: rows can be lost at any time."""
        now = self._clock()
        is_whole = now - self._all_at >= _EVERYTHING_INTERVAL_S
        if is_whole:
            self._all_at, self._known = now, self._store.jobs.known_ids()
        for name in sorted(self._found_runs()):  # ids grow with time: an older job never replaces what a newer deployed
            if name not in self._known:
                with self._troubles.caught(f"adopting the run directory {name}"):
                    self._look_at(name)
        if is_whole:
            for reference in self._packs_without_row():
                with self._troubles.caught(f"adopting the pack {reference}"):
                    self._adopt_pack(reference)
            for job_id in self._store.adoption.events_without_job():
                with self._troubles.caught(f"adopting the events of {job_id}"):
                    self._adopt_events(job_id)

    def _look_at(self, name: str) -> None:
        run = RunDir.of_job(name, self._settings.home)
        try:
            job = run.read_job()
            if job is None:
                return  # its job.json may be on the way
            self._known.add(name)
            if job.origin not in {"ray", "api"} or self._store.jobs.has(name):
                return
            if not _JOB_ID.fullmatch(name) or job.id not in {"", name}:
                raise ValueError("its name is not the id in its job.json")
            if job.origin == "ray":
                config, created_at = job.config, job.created_at
                self._store.adoption.adopt(name, config, created_at=created_at, need=need_of(config))
                logger.info("adopted %s, started on the cluster by hand", name)
            else:
                self._adopt_run(run, job)
        except StorageError:
            self._known.discard(name)
            raise
        except (EdaError, OSError, KeyError, TypeError, ValueError) as error:
            self._known.add(name)
            logger.warning("%s is not a job: %s", run.root, error)

    def _adopt_run(self, run: RunDir, job: JobFile) -> None:
        row_fields, why = job.row_fields, f"found by its run directory: {_NO_ROW}"
        if row_fields is None:
            row_fields = JobRowFields(max_attempts=self._settings.max_attempts)
            why += "; job.json is of a version that kept no owner, so it is the local one's"
        attempt, lines = run.last_attempt(), _lines(run)
        made = self._store.adoption.adopt_run(
            run.job_id,
            job.config,
            created_at=job.created_at,
            attempt=attempt,
            lines=lines,
            why=f"{why}; attempt {attempt}",
            need=need_of(job.config),
            **row_fields.model_dump(),
        )
        if made:
            logger.warning("adopted %s of %s, %s", run.job_id, row_fields.owner, why)
            if run.is_cancelled:
                self._cancel_again(run)
            else:
                self._end_older(run, lines)

    def _cancel_again(self, run: RunDir) -> None:
        """End a job that was cancelled before its row was lost, so that it does not start again."""
        for status, event in ((Status.CANCELLING, "cancel_requested"), (Status.CANCELLED, "job_cancelled")):
            self._store.jobs.transition(run.job_id, status, event=event, message="before its row was lost")

    def _end_older(self, run: RunDir, lines: list[EventLine]) -> None:
        """End a job whose published pack has a newer version: its pack must not take the newer one's place."""
        result = run.read_result()
        pack = Reference.parse(result.pack) if isinstance(result, Succeeded) and result.pack is not None else None
        if pack is None or pack.number is None:
            return
        newest = max(registry.pack_versions(pack.name, self._settings.home), default=0)
        if newest <= pack.number:
            return
        self._store.events.bring_in(run.job_id, lines, start=0)
        self._store.jobs.transition(
            run.job_id,
            Status.SUCCEEDED,
            event="job_succeeded",
            message=f"published {pack} before its row was lost",
            result_pack=str(pack),
            deployment_kept=f"{Reference(pack.name, newest)} is newer; nothing is deployed for a job that was found",
        )

    def _packs_without_row(self) -> list[Reference]:
        """List packs that name a job which has neither a row nor a run directory."""
        home = self._settings.home
        with contextlib.suppress(StorageError):
            return [
                Reference(name, version)
                for name in registry.pack_names(home)
                for version in registry.pack_versions(name, home)
                if self._is_orphan(registry.pack_job_id(name, version, home))
            ]
        return []

    def _is_orphan(self, job_id: str | None) -> bool:
        if job_id is None or job_id in self._known or self._store.jobs.has(job_id):
            return False
        try:
            return RunDir.of_job(job_id, self._settings.home).read_job() is None
        except StorageError:
            raise
        except (EdaError, ValueError):
            return False  # it is there, and says nothing that can be read

    def _adopt_pack(self, reference: Reference) -> None:
        home = self._settings.home
        job_id = registry.pack_job_id(reference.name, reference.number or 0, home) or ""
        why = f"found by its pack {reference}: {_NO_ROW}, and there is no run directory"
        try:
            manifest = registry.find_pack_manifest(reference, home)
            config = AdaptConfig.model_validate(manifest.config)
            if not _JOB_ID.fullmatch(job_id):
                raise ValueError("the pack's claim names no job id")
        except (EdaError, ValidationError, ValueError) as error:
            logger.warning("pack %s names a job without a row, and cannot be adopted: %s", reference, error)
            self._known.add(job_id)
            return
        if self._store.adoption.adopt_pack(job_id, config, str(reference), created_at=manifest.created_at, why=why):
            logger.warning("adopted %s, %s; only an admin and the local owner see it", job_id, why)

    def _adopt_events(self, job_id: str) -> None:
        why = f"found by its events: {_NO_ROW}, and there is neither a run directory nor a pack"
        if self._store.adoption.adopt_events(job_id, why=why):
            logger.warning("adopted %s, %s", job_id, why)

    def _found_runs(self) -> list[str]:
        """List names of possible run directories; the storage is asked only now and then."""
        place = current_place()
        if self._clock() - self._listed_at < place.listing_interval_s:
            return []
        self._listed_at = self._clock()
        return place.objects(self._settings.home).children("runs")


def _lines(run: RunDir) -> list[EventLine]:
    """Return the driver's events; none where they cannot be read, which the tracker reports."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return run.read_events()
    return []
