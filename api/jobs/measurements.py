"""The measurements resource: what a draft, or a draft and a pack, gives on a target and prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pydantic import ValidationError

from api.auth import Caller
from api.drafts.drafts import Drafts
from api.errors import config_error
from api.files.files import Files
from api.jobs.jobs import Jobs, Queued
from api.jobs.schemas_tasks import MeasureRequest
from api.jobs.submission import inputs
from api.jobs.submission.targets import Targets
from api.jobs.submission.tasks import TaskChecks
from api.packs.packs import PackService
from api.settings import Settings
from eda_service.config.tasks import JobKind, MeasureConfig
from eda_service.errors import ArtifactCorruptError, InputError
from eda_service.jobstore import Job, JobStore
from eda_service.records import Stage
from eda_service.task_records import MeasureRecord


class Measurements(Jobs):
    """Measurements, as callers see them: those of another owner do not exist.

    Args:
        store: The queue.
        settings: Where things are.
        wake: Called when one was queued.
        drafts: The base drafts that there are.
        packs: The packs that there are.
        targets: Looks at submit for what a request names.
        checks: What cluster and hub say of it.
        files: The prompt files that were uploaded.
    """

    def __init__(
        self,
        store: JobStore,
        settings: Settings,
        wake: Callable[[], None],
        drafts: Drafts,
        packs: PackService,
        targets: Targets,
        checks: TaskChecks,
        files: Files,
    ) -> None:
        super().__init__(store, settings, wake, kind=JobKind.MEASURE)
        self._drafts, self._packs, self._targets, self._checks = drafts, packs, targets, checks
        self._files = files

    def create(self, request: MeasureRequest, caller: Caller, idempotency_key: str | None) -> tuple[Job, bool]:
        """Check a request for a measurement and queue it; returns the job and whether it is new.

        Raises:
            InputError: The request cannot work; `param` says why.
            ConflictError: The idempotency key belongs to another request.
            QuotaExceededError: The caller has too many queued jobs.
        """

        def check() -> Queued:
            config = self._checked(request, caller)
            return self._checks.queued(config, self._targets.look_for_measure(config), force=request.force)

        return self._queue(request, caller, idempotency_key, check)

    def record(self, job: Job) -> MeasureRecord | None:
        """What a measurement has measured; None: it has not come that far, or it cannot be read."""
        try:
            return self._run_dir(job).read_record(MeasureRecord, Stage.MEASURE, verify=False)
        except ArtifactCorruptError:
            return None

    def _checked(self, request: MeasureRequest, caller: Caller) -> MeasureConfig:
        try:
            asked = request.to_config()
        except ValidationError as error:
            raise config_error(error) from error
        changes: dict[str, object] = {"target": inputs.check_target(asked.target, self._roots)}
        if asked.base_target is not None:
            changes["base_target"] = inputs.check_target(asked.base_target, self._roots, param="base_model")
        draft = str(self._drafts.resolve(asked.draft, caller.sees, param="draft"))
        changes["draft"] = draft
        if asked.pack is not None:
            pack = self._packs.resolve(asked.pack, caller)
            made_with = None if pack.manifest is None else pack.manifest.base_draft
            if made_with is not None and made_with != draft:
                raise InputError(
                    f"pack {pack.reference} was trained beside {made_with}, not {draft}; name that draft", param="pack"
                )
            changes["pack"] = pack.reference
        changes["dataset"] = inputs.check_dataset(
            asked.dataset,
            roots=self._roots,
            uploads=partial(self._files.open, caller=caller),
            home=self._settings.home,
            is_number_given=request.dataset is not None and "num_prompts" in request.dataset.model_fields_set,
        )
        return asked.model_copy(update=changes)
