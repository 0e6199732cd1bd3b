"""The page "New adaptation", in two steps without scripts: the form, and, before queueing, the job's estimated cost."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from api.deployments.deployments import DeploymentService
from api.drafts import views as draft_views
from api.drafts.drafts import Drafts
from api.files.files import Files, kept_name
from api.routes.deps import AdaptationsDep, DeploymentsDep, DraftsDep, FilesDep
from api.ui.access import FormDep, Visitor, WriterDep
from api.ui.jobs.wish import Wish
from api.ui.rendering import go, render
from api.ui.uploads import form_with_file
from eda_service.config import presets
from eda_service.config.job import AdaptConfig
from eda_service.errors import InputError, InsufficientStorageError, QuotaExceededError, ResourceError
from eda_service.ids import ulid
from eda_service.jobstore import StoredFile
from eda_service.targets.files.resolve import known_targets

router = APIRouter(prefix="/new")

_MANY = 100
_SAID = {
    "demo": "a few minutes on two cores, with prompts of its own",
    "paper": "the paper's settings",
    "paper_7b": "the paper's settings for 7B targets",
    "8b": "for 8B targets on one GPU",
    "70b": "for 70B targets on eight GPUs",
    "235b": "for 235B targets on two machines of eight GPUs",
    "best": "beyond the paper: the most acceptance, and the longest training",
}
_TOLD = (InputError, ResourceError, InsufficientStorageError, QuotaExceededError)


@router.get("")
def ask(
    request: Request, visitor: WriterDep, drafts: DraftsDep, files: FilesDep, deployments: DeploymentsDep
) -> Response:
    """Show the form, filled with the fields of the address."""
    wish = Wish.of(request.query_params, is_sent=False)
    return _form(request, visitor, wish, drafts, files, deployments)


@router.post("")
async def check(
    request: Request,
    visitor: WriterDep,
    adaptations: AdaptationsDep,
    drafts: DraftsDep,
    files: FilesDep,
    deployments: DeploymentsDep,
) -> Response:
    """Show the estimated cost of the job; prompts of the form are stored by the service from now on."""
    fields, file, refused = await form_with_file(request, visitor, files)
    wish = Wish.of(fields, is_sent=True)

    def answer() -> Response:
        asked, shown = wish, wish if file is None else wish.with_file(file.id)
        written: StoredFile | None = None
        try:
            wish.require_one_source(has_upload=file is not None)
            if refused is not None:
                raise refused
            source = file
            if source is None and (wish.pasted or wish.kept):
                source, is_new = _written(wish, visitor, files, deployments)
                written = source if is_new else None
            asked = wish if source is None else wish.with_file(source.id)
            estimate = adaptations.estimate(asked.request(), visitor.caller)
        except _TOLD as error:
            if written is not None:  # the form has its text still
                files.delete(written.id, visitor.caller)
            return _form(request, visitor, shown, drafts, files, deployments, failure=error.message, status=400)
        return render(
            request,
            "new_check.html",
            visitor,
            wish=asked,
            estimate=estimate,
            file=files.get(asked.file, visitor.caller) if asked.file else None,
            key=f"page-{ulid()}",
        )

    return await run_in_threadpool(answer)


@router.post("/queue")
def queue(
    request: Request,
    visitor: WriterDep,
    form: FormDep,
    adaptations: AdaptationsDep,
    drafts: DraftsDep,
    files: FilesDep,
    deployments: DeploymentsDep,
) -> Response:
    """Queue the job, once however often the button is pressed, and show it."""
    wish = Wish.of(form, is_sent=True)
    try:
        job, _ = adaptations.create(wish.request(), visitor.caller, form.get("key") or None)
    except _TOLD as error:
        return _form(request, visitor, wish, drafts, files, deployments, failure=error.message, status=400)
    return go(f"/jobs/{job.id}")


def _written(wish: Wish, visitor: Visitor, files: Files, deployments: DeploymentService) -> tuple[StoredFile, bool]:
    """Return the file made of pasted prompts, or of a deployment's kept prompts, and whether it is new."""
    if wish.pasted:
        return files.put("pasted.jsonl", wish.pasted_rows(), visitor.caller)
    return files.put(kept_name(wish.kept), deployments.kept_prompts(wish.kept, visitor.caller), visitor.caller)


def _form(
    request: Request,
    visitor: Visitor,
    wish: Wish,
    drafts: Drafts,
    files: Files,
    deployments: DeploymentService,
    *,
    failure: str | None = None,
    status: int = 200,
) -> Response:
    found, _ = drafts.versions(visitor.caller, limit=_MANY, after=None)
    deployed, _ = deployments.page(visitor.caller, limit=_MANY, after=None)
    return render(
        request,
        "new.html",
        visitor,
        status=status,
        wish=wish,
        failure=failure,
        targets=sorted({*known_targets(), *(str(each.target.get("model", "")) for each in deployed)} - {""}),
        drafts=[draft_views.draft_body(each) for each in found],
        default_draft=AdaptConfig.model_fields["base_draft"].default,
        presets=[(name, _SAID.get(name, "")) for name in presets.names()],
        files=files.page(visitor.caller, limit=_MANY, after=None)[0] if visitor.may("jobs:read") else [],
        keepers=[each.name for each in deployed if each.drift.get("keep_prompts")],
    )
