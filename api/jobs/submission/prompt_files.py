"""Prompt files at submit: opened once, every row read as the job will read it, and copied meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from api.jobs.submission.paths import given
from eda_service.config.job import DatasetSpec
from eda_service.errors import DatasetInvalidError
from eda_service.ids import is_file_id
from eda_service.selfgen.prompts import Survey, read_rows, survey
from eda_service.selfgen.skipped_rows import SkippedRows
from eda_service.storage.inputs.beneath import Roots
from eda_service.storage.inputs.input_files import copying

MIN_PROMPTS = 8
"""The least that `dataset.num_prompts` may be."""
OpenUpload = Callable[[str, str], BinaryIO]
"""Opens an uploaded file of the caller's: its id, and the field that names it."""


@dataclass(frozen=True)
class CheckedPrompts:
    """A prompt file that was read to its end.

    Attributes:
        spec: With the hash of the copy, and with at most as many prompts as there are.
        survey: What is in the file.
        skipped: Rows that hold no prompt.
    """

    spec: DatasetSpec
    survey: Survey
    skipped: SkippedRows


def check_prompt_file(
    spec: DatasetSpec,
    field: str,
    *,
    roots: Roots,
    uploads: OpenUpload,
    home: Path,
    is_number_given: bool,
    keep: bool,
    max_error_fraction: float,
) -> CheckedPrompts:
    """Read a prompt file through, and copy it.

    Args:
        spec: Its path, or its id where it was uploaded, and how many prompts are wanted.
        field: `dataset` or `eval_dataset`.
        roots: Where it may lie.
        uploads: Opens what was uploaded.
        home: Where the copy goes.
        is_number_given: Whether the caller asked for that number; if not, it is lowered to what there is.
        keep: Whether a job will read it; else nothing is copied.
        max_error_fraction: More malformed rows than this share are an error.

    Raises:
        DatasetInvalidError: It cannot be read, too many rows are malformed, or there are too few prompts.
        InputError: It does not lie beneath a root.
        InsufficientStorageError, StorageError: The service cannot copy it.
    """
    param = f"{field}.source"
    skipped = SkippedRows(max_error_fraction)
    if is_file_id(spec.source):
        stream = uploads(spec.source, param)
    else:
        with given(param, roots):
            stream, _ = roots.open_file(spec.source)
    with stream, copying(home) if keep else nullcontext() as copy:
        try:
            tee = None if copy is None else copy.write
            rows = read_rows(stream, shown=param, param=param, tee=tee, skipped=skipped)
            found = survey(rows, shown=param, enough=spec.num_prompts, param=param)
        except OSError as error:
            raise DatasetInvalidError(f"{param} cannot be read to its end: {error.strerror}", param=param) from error
        number = _number(spec, field, found.num_distinct, is_number_given=is_number_given)
        sha256 = None if copy is None else copy.publish()
    return CheckedPrompts(spec.model_copy(update={"num_prompts": number, "sha256": sha256}), found, skipped)


def _number(spec: DatasetSpec, field: str, found: int, *, is_number_given: bool) -> int:
    if found >= spec.num_prompts:
        return spec.num_prompts
    if is_number_given or found < MIN_PROMPTS:
        wanted = f"{field}.num_prompts is {spec.num_prompts}" if is_number_given else f"at least {MIN_PROMPTS} are used"
        raise DatasetInvalidError(
            f"{field}.source has {found} distinct prompts, {wanted}; add prompts"
            + (f" or set {field}.num_prompts to {found}" if found >= MIN_PROMPTS else ""),
            param=f"{field}.num_prompts" if is_number_given else f"{field}.source",
        )
    return found
