"""Converts the small forms of the pages to the requests that the services take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from api.deployments.schemas import DeploymentChange, RollbackRequest
from api.errors import config_error
from api.jobs.schemas import ChangeRequest
from api.jobs.schemas_tasks import ImportRequest
from api.packs.schemas_exports import ExportRequest
from eda_service.errors import InputError

IMPORT_FIELDS = ("source", "source_revision", "model", "name", "overrides", "check", "use_gpu", "force")
"""Fields of the form that imports a draft."""
ModelT = TypeVar("ModelT", bound=BaseModel)


def change_of(priority: str) -> ChangeRequest:
    """Read a queued job's new priority."""
    return made(ChangeRequest, {"priority": whole("priority", priority)})


def rollback_of(revision: str) -> RollbackRequest:
    """Read the revision to serve again; an empty text: the last one that served something else."""
    return made(RollbackRequest, {"revision": whole("revision", revision)} if revision else {})


def swap_of(form: Mapping[str, str]) -> DeploymentChange:
    """Read the new pack of a deployment; an empty text: the base draft alone."""
    pack = form.get("pack", "").strip()
    return made(DeploymentChange, {"pack": pack or None, "force": bool(form.get("force"))})


def import_of(form: Mapping[str, str]) -> ImportRequest:
    """Read the draft that is to be imported."""
    texts = {name: form.get(name, "").strip() for name in ("source", "source_revision", "model", "name")}
    lines = [line.strip() for line in form.get("overrides", "").splitlines() if line.strip()]
    given: dict[str, Any] = {name: value for name, value in texts.items() if value}
    overrides = dict(_pair(line) for line in lines)
    boxes = {"check": bool(form.get("check")), "use_gpu": bool(form.get("use_gpu")), "force": bool(form.get("force"))}
    return made(ImportRequest, {**given, "overrides": overrides, **boxes})


def export_of(pack: str, form: Mapping[str, str]) -> ExportRequest:
    """The export that is to be made; engine and form are one choice, `vllm-dense`."""
    to, _, kind = form.get("choice", "").partition("-")
    if not kind:
        raise InputError("choose an engine and a form", param="choice")
    given: dict[str, Any] = {"pack": pack, "to": to, "form": kind}
    if form.get("dialect") and kind == "dense":
        given["dialect"] = form["dialect"]
    if form.get("num_draft_tokens"):
        given["num_draft_tokens"] = whole("num_draft_tokens", form["num_draft_tokens"])
    return made(ExportRequest, given)


def _pair(line: str) -> tuple[str, str]:
    name, equals, value = line.partition("=")
    if not equals:
        raise InputError(f"{line[:64]!r} is not of the form FIELD=VALUE", param="overrides")
    return name.strip(), value.strip()


def made(kind: type[ModelT], fields: Mapping[str, Any]) -> ModelT:
    """Build a request from fields.

    Raises:
        InputError: A field is missing or out of its bounds.
    """
    try:
        return kind.model_validate(dict(fields))
    except ValidationError as error:
        raise config_error(error, kind) from error


def whole(name: str, text: str) -> int:
    """Read a whole number that a user typed.

    Raises:
        InputError: The text is not a whole number.
    """
    text = text.strip()
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 16):
        raise InputError(f"{name} is {text[:32]!r}, which is no whole number", param=name)
    return int(text)
