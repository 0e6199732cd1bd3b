"""The exports resource: a pack as another engine loads it, written by a job and kept for a day to be downloaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from api.auth import Caller
from api.jobs.jobs import Jobs, Queued
from api.jobs.schemas_tasks import JobBody
from api.jobs.submission import inputs
from api.jobs.submission.targets import Targets
from api.jobs.submission.tasks import TaskChecks
from api.packs.packs import PackService
from api.packs.schemas_exports import ExportBody, ExportedFileBody, ExportOfferBody, ExportRequest
from api.settings import Settings
from eda_service.config.tasks import ExportConfig, JobKind
from eda_service.errors import ArtifactCorruptError, ConflictError, InputError, NotFoundError, TargetIncompatibleError
from eda_service.export.offers import Offer, offers_of, refused_offers
from eda_service.jobstore import Job, JobStore, Status
from eda_service.records import Stage
from eda_service.storage.published import registry
from eda_service.storage.published.packs import PackVersion, target_of
from eda_service.storage.runs.run import RunDir
from eda_service.task_records import EXPORTED, ExportRecord

logger = logging.getLogger(__name__)

KEPT_S = 24 * 3600
"""How long an export can be downloaded."""
_PAGE = 100


@dataclass(frozen=True)
class Archive:
    """An export that can be downloaded.

    Attributes:
        directory: Its files.
        name: Of the directory in the archive.
    """

    directory: Path
    name: str


class Exports(Jobs):
    """Exports, as callers see them: those of another owner do not exist.

    Args:
        store: The queue.
        settings: Where things are.
        wake: Called when one was queued.
        packs: The packs that there are.
        targets: Looks at submit for the target of a pack.
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
        super().__init__(store, settings, wake, kind=JobKind.EXPORT)
        self._packs, self._targets, self._checks = packs, targets, checks

    def offers(self, reference: str, caller: Caller) -> tuple[PackVersion, tuple[Offer, ...]]:
        """A version, and every form for every engine, refused ones with the reason.

        Raises:
            NotFoundError: No pack that the caller sees.
        """
        pack = self._packs.resolve(reference, caller)
        try:
            return pack, self._offers(pack)
        except ArtifactCorruptError as error:
            return pack, refused_offers(error.message)

    def _offers(self, pack: PackVersion) -> tuple[Offer, ...]:
        """Every form for every engine.

        Raises:
            ArtifactCorruptError: The pack or its base draft cannot be read.
        """
        if pack.manifest is None:
            raise ArtifactCorruptError(f"the manifest of {pack.reference} cannot be read; adapt it again")
        is_known = target_of(pack.manifest) is not None
        try:
            base_dir = registry.find_draft(pack.manifest.base_draft, self._settings.home)
            return offers_of(self._packs.directory(pack), base_dir, is_target_known=is_known)
        except ArtifactCorruptError as error:  # it names files of this machine
            logger.warning("no exports of %s: %s", pack.reference, error.message)
            raise ArtifactCorruptError(
                f"files of {pack.reference} or of its base draft {pack.manifest.base_draft} cannot be read, the "
                "service's log says which; adapt it again"
            ) from error

    def create(self, request: ExportRequest, caller: Caller, idempotency_key: str | None) -> tuple[Job, bool]:
        """Check a request for an export and queue it; returns the job and whether it is new.

        Raises:
            InputError: The request cannot work; `param` says why.
            NotFoundError: No such pack of the caller's.
            ConflictError: The idempotency key belongs to another request.
            QuotaExceededError: The caller has too many queued jobs.
        """

        def check() -> Queued:
            config = self._checked(request, caller)
            return self._checks.queued(config, self._targets.look_for_export(config), force=request.force)

        return self._queue(request, caller, idempotency_key, check)

    def of_pack(self, name: str, caller: Caller, limit: int) -> list[Job]:
        """The caller's newest exports of a pack."""
        found, _ = self.page(caller, limit=_PAGE, after=None, status=None, labels={})
        return [job for job in found if _is_of(job, name)][:limit]

    def body(self, job: Job) -> ExportBody:
        """The wire form of an export."""
        config, record = _config(job), self._record(job)
        files = [] if record is None or self._is_gone(job, record) else list(record.files)
        named = [
            ExportedFileBody(path=Path(each.path).name, size_bytes=each.size_bytes, sha256=each.sha256)
            for each in files
        ]
        return ExportBody(
            **JobBody.of(job).model_dump(),
            pack=config.pack,
            to=config.to,
            form=config.form,
            dialect=config.dialect if record is None else record.dialect,
            serve_command=None if record is None else record.serve_command,
            needs=[] if record is None else list(record.needs),
            acceptance_length=None if record is None else record.acceptance_length,
            exported_acceptance_length=None if record is None else record.exported_acceptance_length,
            files=named,
            available_until=(job.finished_at or 0) + KEPT_S if files else None,
        )

    def archive(self, job: Job) -> Archive:
        """The files of an export, on this machine.

        Raises:
            ConflictError: It is not made yet, or has failed.
            NotFoundError: It was removed again.
        """
        record = self._record(job)
        if record is None or job.status is not Status.SUCCEEDED:
            raise ConflictError(f"export {job.id} is {job.status.value}; download it once it has succeeded", param="id")
        if self._is_gone(job, record):
            raise NotFoundError(
                f"the files of export {job.id} are no longer kept; an export can be downloaded for "
                f"{KEPT_S // 3600} hours: export {record.pack} again",
                param="id",
            )
        run = self._run_dir(job)
        run.store.fetch(Stage.EXPORT, record.files)
        return Archive(run.root / Stage.EXPORT / EXPORTED, _config(job).archive_name)

    def _record(self, job: Job) -> ExportRecord | None:
        """What an export has written; None: it has not come that far, or it cannot be read."""
        return _record_of(self._run_dir(job))

    def _is_gone(self, job: Job, record: ExportRecord) -> bool:
        """Whether its files were removed."""
        if (job.finished_at or 0) + KEPT_S <= time.time():
            return True
        run = self._run_dir(job)
        return run.store.kept_bytes(Stage.EXPORT.value) is not None and not all(
            (run.root / Stage.EXPORT.value / each.path).is_file() for each in record.files
        )

    def _checked(self, request: ExportRequest, caller: Caller) -> ExportConfig:
        pack = self._packs.resolve(request.pack, caller)
        offer = next(each for each in self._offers(pack) if (each.to, each.form) == (request.to, request.form))
        if offer.refused is not None:
            raise TargetIncompatibleError(offer.refused, param="to")
        if request.dialect is not None and request.dialect not in offer.dialects:
            named = ", ".join(offer.dialects)
            raise InputError(
                f"dialect {request.dialect!r} is not one that {pack.reference} can be written in as {request.form} for "
                f"{request.to}; {f'name one of {named}' if named else 'leave it out'}",
                param="dialect",
            )
        target = None if pack.manifest is None else target_of(pack.manifest)
        assert target is not None, "of a pack whose target is not known everything is refused"
        return ExportConfig(
            target=inputs.check_target(target, self._roots),
            pack=pack.reference,
            **request.model_dump(include={"to", "form", "dialect", "num_prompts", "num_draft_tokens"}),
        )


def offer_body(offer: Offer) -> ExportOfferBody:
    """The wire form of an offer."""
    return ExportOfferBody(
        to=offer.to,
        form=offer.form,
        needs_answers=offer.needs_answers,
        dialects=[each.value for each in offer.dialects],
        refused=offer.refused,
    )


def forget_old_exports(store: JobStore, home: Path, now: float) -> None:
    """Delete the files of exports that could be downloaded long enough; their records stay."""
    after: str | None = None
    has_more = True
    while has_more:
        jobs, has_more = store.jobs.page(limit=_PAGE, after=after, kind=JobKind.EXPORT)
        after = jobs[-1].id if jobs else None
        for job in jobs:
            if job.is_terminal and (job.finished_at or job.created_at) + KEPT_S <= now:
                run = RunDir.of_job(job.id, home)
                record = _record_of(run)
                if record is not None:
                    run.store.forget_once(Stage.EXPORT, record.files, keep=())


def _record_of(run: RunDir) -> ExportRecord | None:
    try:
        return run.read_record(ExportRecord, Stage.EXPORT, verify=False)
    except ArtifactCorruptError:
        return None


def _is_of(job: Job, name: str) -> bool:
    """Whether a job exports a version of a pack; of one whose row cannot be read nobody knows."""
    task = job.task()
    return isinstance(task, ExportConfig) and task.pack.partition("@")[0] == name


def _config(job: Job) -> ExportConfig:
    task = job.task()
    if not isinstance(task, ExportConfig):
        raise ConflictError(f"job {job.id} is no export but of kind {job.kind.value}", param="id")
    return task
