"""Checks at submit that cost no model load: names, paths under the allowed roots, files that are there and parse.

What needs the target's weights (hidden size, vocabulary, tokenizer) is the job's first stage, `validate`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from eda_service.artifacts import bounded_json
from eda_service.artifacts.registry import find_draft
from eda_service.config import AdaptConfig, DatasetSpec, TargetSpec
from eda_service.errors import (
    BaseDraftMissingError,
    DatasetInvalidError,
    InputError,
    TargetNotFoundError,
    UnsafeCheckpointError,
)
from eda_service.names import NAME_PATTERN, NAME_RULE, is_model_id, is_name
from eda_service.records import MAX_ROW_BYTES

_DRAFT_ID = re.compile(f"{NAME_PATTERN}(@[0-9]{{1,9}})?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,127}")
_TASK = re.compile(r"^reasoning-gym:[a-z0-9_]{1,64}(\?[a-z0-9_=&,-]{1,128})?$")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_CHECKED_LINES = 1000


def check(config: AdaptConfig, *, home: Path, roots: Sequence[Path], explicit_num_prompts: bool = True) -> AdaptConfig:
    """Check a config's names and files; paths come back with symbolic links resolved, the draft with its version.

    Resolved, so that a link or a registry which changes after the check does not change what the job reads.

    Raises:
        InputError: A subclass that says which field is at fault.
    """
    draft = check_draft(config.base_draft, home)
    if config.served_name is not None and not is_name(config.served_name):
        raise InputError(f"served_name is no name; write {NAME_RULE}", param="served_name")
    changes: dict[str, object] = {
        "base_draft": draft,
        "target": check_target(config.target, roots),
        "dataset": _check_dataset(config.dataset, roots, "dataset.source"),
    }
    if config.eval_dataset is not None:
        changes["eval_dataset"] = _check_dataset(config.eval_dataset, roots, "eval_dataset.source")
    return config.model_copy(update=changes)


def check_draft(reference: str, home: Path) -> str:
    """A registered base draft with its version.

    Raises:
        BaseDraftMissingError: It is not registered, or no such name.
    """
    if not _DRAFT_ID.fullmatch(reference):
        raise BaseDraftMissingError("base_draft is not of the form name@version", param="base_draft")
    draft = find_draft(reference, home)
    return f"{draft.parent.name}@{draft.name}"


def check_target(spec: TargetSpec, roots: Sequence[Path]) -> TargetSpec:
    """Check a target's names; paths come back with symbolic links resolved.

    Raises:
        InputError: A subclass that says which field is at fault.
    """
    if spec.revision is not None and (not _REVISION.fullmatch(spec.revision) or ".." in spec.revision):
        raise InputError("revision is no branch, tag or commit name", param="revision")
    changes: dict[str, object] = {}
    model = local_path(spec.model, roots, "model")
    if model is not None:
        _require_checkpoint(model, "config.json", roots, "model")
        changes["model"] = str(model)
    if spec.adapter is not None:
        adapter = local_path(spec.adapter, roots, "adapter")
        if adapter is not None:
            _require_checkpoint(adapter, "adapter_config.json", roots, "adapter")
            changes["adapter"] = str(adapter)
    return spec.model_copy(update=changes)


def _require_checkpoint(path: Path, marker: str, roots: Sequence[Path], param: str) -> None:
    if not (path / marker).is_file():
        raise TargetNotFoundError(f"{param} is a path without a {marker}; name the checkpoint's directory", param=param)
    if not all(_is_inside(entry.resolve(), roots) for entry in path.iterdir()):
        raise InputError(f"{param} holds a link to outside of the allowed roots; copy the file instead", param=param)
    if any(path.glob("*.safetensors")):
        return
    if any(entry.suffix in _PICKLED for entry in path.iterdir()):
        raise UnsafeCheckpointError(f"{param} holds only pickled weights; convert them to safetensors", param=param)
    raise TargetNotFoundError(f"{param} is a directory without any *.safetensors; save the weights there", param=param)


def _check_dataset(spec: DatasetSpec, roots: Sequence[Path], param: str) -> DatasetSpec:
    if spec.source == "self" or _TASK.fullmatch(spec.source):
        return spec
    path = local_path(spec.source, roots, param)
    if path is None:
        return spec
    _require_jsonl(path, param)
    return spec.model_copy(update={"source": str(path)})


def _require_jsonl(path: Path, param: str) -> None:
    if not path.is_file():
        raise DatasetInvalidError(f"{param} is not a file; name a JSONL file with one object per line", param=param)
    num_objects = 0
    with path.open("rb") as stream:
        for number in range(1, _CHECKED_LINES + 1):  # the rest is checked when it is used
            line = stream.readline(MAX_ROW_BYTES + 1)
            if not line:
                break
            if len(line) > MAX_ROW_BYTES:
                raise DatasetInvalidError(
                    f"{param}: line {number} has more than {MAX_ROW_BYTES} bytes; shorten it", param=param
                )
            if not line.strip():
                continue
            try:
                value = bounded_json.parse(line)
            except ValueError as error:
                raise DatasetInvalidError(f"{param}: line {number} is not JSON; fix it", param=param) from error
            if not isinstance(value, dict):
                raise DatasetInvalidError(f"{param}: line {number} is not a JSON object", param=param)
            num_objects += 1
    if not num_objects:
        raise DatasetInvalidError(f"{param} holds no prompt; put one JSON object per line", param=param)


def _is_inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def local_path(value: str, roots: Sequence[Path], param: str) -> Path | None:
    """The resolved path when `value` is one, None when it is an id.

    Raises:
        InputError: Neither an id nor an absolute path, or a path outside the roots.
        TargetNotFoundError, DatasetInvalidError: Nothing is at that path.
    """
    if is_model_id(value):
        return None
    missing = DatasetInvalidError if "dataset" in param else TargetNotFoundError
    if not value.startswith("/") or "\x00" in value:
        raise missing(f"{param} is neither an id (`name` or `owner/name`) nor an absolute path", param=param)
    path = Path(value).resolve()
    # Outside the roots the answer is the same whether something is there or not: no probing of the file system.
    if not _is_inside(path, roots):
        shown = ", ".join(str(root) for root in roots)
        raise InputError(f"{param} is outside the allowed roots ({shown}); move it or run `eda up` there", param=param)
    if not path.exists():
        raise missing(f"{param}: nothing is at that path", param=param)
    return path
