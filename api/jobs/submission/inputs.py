"""Checks at submit that cost no model load: names, paths beneath the allowed roots, files that are there and parse.

What needs the target's weights (hidden size, vocabulary, tokenizer) is the job's first stage, `validate`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePath

from pydantic import ValidationError

from api.errors import config_error
from api.jobs.submission.paths import given, is_path
from api.jobs.submission.prompt_files import OpenUpload, check_prompt_file
from eda_service.config.job import AdaptConfig, DatasetSpec, SelfGenConfig, TargetSpec
from eda_service.drafts.source import is_pickled_draft
from eda_service.errors import (
    DatasetInvalidError,
    DraftSourceMissingError,
    InputError,
    TargetNotFoundError,
    UnsafeCheckpointError,
)
from eda_service.ids import is_file_id
from eda_service.selfgen.tasks import PREFIX, templates_of
from eda_service.storage.inputs.beneath import Roots

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,127}")
_TASK = re.compile(r"reasoning-gym:[a-z0-9_]{1,64}(\?[a-z0-9_=&,-]{1,128})?")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_MAX_ERROR_FRACTION = float(SelfGenConfig.model_fields["max_error_fraction"].default)
_HELD_OUT = 4  # one prompt of four is for the evaluation, where the caller does not say how many

NUM_PROMPTS = frozenset({"dataset.num_prompts", "eval_dataset.num_prompts", "evaluation.num_prompts"})
"""Numbers that are lowered to what a file has, unless the caller has given them."""


@dataclass(frozen=True)
class Checked:
    """A config that passed.

    Attributes:
        config: As the job takes it: paths of targets without links, the draft with its version, prompt files with the
            hash of their copy, and not more prompts than there are.
        notes: What was changed because the caller had not said otherwise.
    """

    config: AdaptConfig
    notes: tuple[str, ...] = ()


def check(
    config: AdaptConfig,
    *,
    draft: str,
    home: Path,
    roots: Roots,
    uploads: OpenUpload,
    explicit: Collection[str] = NUM_PROMPTS,
    keep: bool = True,
) -> Checked:
    """Check a config's names and files, the cheap ones first.

    Args:
        config: What the caller asks for.
        draft: The base draft with its version, which was looked for.
        home: Root of all state.
        roots: Where paths may be named.
        uploads: Opens an uploaded file of the caller's by its id.
        explicit: Which of `NUM_PROMPTS` the caller has given.
        keep: Whether a job will follow, for which prompt files are copied.

    Raises:
        InputError: A subclass that says which field is at fault.
        InsufficientStorageError, StorageError: The service cannot copy a prompt file.
    """
    changes: dict[str, object] = {"base_draft": draft, "target": check_target(config.target, roots)}
    specs = {"dataset": config.dataset, "eval_dataset": config.eval_dataset}
    files = {name for name, spec in specs.items() if spec is not None and _is_file(spec, f"{name}.source")}
    notes: list[str] = []
    for field, spec in specs.items():
        if spec is None:
            continue
        checked = spec.model_copy(update={"sha256": None})
        if field in files:
            is_given = f"{field}.num_prompts" in explicit
            read = check_prompt_file(
                checked,
                field,
                roots=roots,
                uploads=uploads,
                home=home,
                is_number_given=is_given,
                keep=keep,
                max_error_fraction=config.selfgen.max_error_fraction,
            )
            checked = read.spec
            if read.skipped.num:
                notes.append(f"{field}: {read.skipped}")
        if checked.num_prompts < spec.num_prompts:
            notes.append(f"{field}.num_prompts is {checked.num_prompts}, which is what {field}.source has")
        changes[field] = checked
    if "evaluation.num_prompts" not in explicit and config.eval_dataset is None:
        changes |= _fewer_held_out(config, changes["dataset"], notes)
    return Checked(_valid(config.model_copy(update=changes)), tuple(notes))


def _is_file(spec: DatasetSpec, param: str) -> bool:
    if is_file_id(spec.source):
        return True
    if spec.source.startswith("file-") and "/" not in spec.source:
        raise DatasetInvalidError(
            f"{param} {spec.source[:64]!r} is no id of an uploaded file, which is file- and 26 letters and digits; GET "
            "/v1/files lists them",
            param=param,
        )
    return spec.source != "self" and not _TASK.fullmatch(spec.source) and is_path(spec.source, param)


def _fewer_held_out(config: AdaptConfig, dataset: object, notes: list[str]) -> dict[str, object]:
    """The evaluation's share of a data set that was found to be small."""
    assert isinstance(dataset, DatasetSpec)
    if config.evaluation.num_prompts < dataset.num_prompts:
        return {}
    number = dataset.num_prompts // _HELD_OUT
    notes.append(f"evaluation.num_prompts is {number}, one in {_HELD_OUT} of the {dataset.num_prompts} prompts")
    return {"evaluation": config.evaluation.model_copy(update={"num_prompts": number})}


def _valid(config: AdaptConfig) -> AdaptConfig:
    """The config with its rules applied again to what was changed."""
    try:
        return AdaptConfig.model_validate(config.model_dump())
    except ValidationError as error:
        raise config_error(error) from error


def check_target(spec: TargetSpec, roots: Roots, *, is_whole: bool = True, param: str = "model") -> TargetSpec:
    """Check a target's names; paths come back without links.

    Args:
        spec: The names.
        roots: Where paths may be named.
        is_whole: Whether its weights must be there, too; of a draft's base target the config alone will do.
        param: The field that names the model.

    Raises:
        InputError: A subclass that says which field is at fault.
    """
    if spec.revision is not None and (not _REVISION.fullmatch(spec.revision) or ".." in spec.revision):
        raise InputError("revision is no branch, tag or commit name", param="revision")
    changes: dict[str, object] = {}
    if is_path(spec.model, param):
        changes["model"] = _checkpoint(spec.model, "config.json", roots, param, is_whole=is_whole)
    if spec.adapter is not None and is_path(spec.adapter, "adapter"):
        changes["adapter"] = _checkpoint(spec.adapter, "adapter_config.json", roots, "adapter")
    return spec.model_copy(update=changes)


def check_draft_source(source: str, revision: str | None, roots: Roots) -> str:
    """Check the name of a draft that is to be imported; a path comes back without links.

    Raises:
        InputError: A subclass that says which field is at fault.
    """
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InputError("source_revision is no branch, tag or commit name", param="source_revision")
    if not is_path(source, "source"):
        return source
    if revision is not None:
        raise InputError("source is a directory, and those have no revisions; leave it out", param="source_revision")
    with given("source", roots):
        real, files = roots.files(source)
    names = {name for name in files if "/" not in name}
    if "config.json" not in names:
        raise DraftSourceMissingError(
            "source is a path without a config.json; name a draft's directory", param="source"
        )
    if not any(name.endswith(".safetensors") or is_pickled_draft(name) for name in names):
        raise DraftSourceMissingError(
            "source is a directory without *.safetensors or pytorch_model.bin; copy the weights there", param="source"
        )
    return str(real)


def check_dataset(
    spec: DatasetSpec, *, roots: Roots, uploads: OpenUpload, home: Path, is_number_given: bool
) -> DatasetSpec:
    """Check the prompts of a measurement; of a file comes back the hash of the copy that was made.

    Raises:
        DatasetInvalidError: It cannot be read, or has too few prompts.
        InputError: It does not lie beneath a root.
    """
    checked = spec.model_copy(update={"sha256": None})
    if spec.source.lower().startswith(PREFIX):
        templates_of(spec.source, param="dataset.source")
    if not _is_file(checked, "dataset.source"):
        return checked
    return check_prompt_file(
        checked,
        "dataset",
        roots=roots,
        uploads=uploads,
        home=home,
        is_number_given=is_number_given,
        keep=True,
        max_error_fraction=_MAX_ERROR_FRACTION,
    ).spec


def _checkpoint(path: str, marker: str, roots: Roots, param: str, *, is_whole: bool = True) -> str:
    """A checkpoint's directory without links; everything in it lies beneath a root.

    It is too large to copy: `eda_service.targets.files.given` looks again when the job or a replica reads it.
    """
    with given(param, roots):
        real, files = roots.files(path)
    if marker not in files:
        raise TargetNotFoundError(f"{param} is a path without a {marker}; name the checkpoint's directory", param=param)
    kinds = {PurePath(name).suffix for name in files if "/" not in name}
    if ".safetensors" in kinds or not (is_whole or kinds & set(_PICKLED)):
        return str(real)
    if kinds & set(_PICKLED):
        raise UnsafeCheckpointError(f"{param} holds only pickled weights; convert them to safetensors", param=param)
    raise TargetNotFoundError(f"{param} is a directory without any *.safetensors; save the weights there", param=param)
