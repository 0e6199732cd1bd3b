"""Conversion of pickled weights (`pytorch_model.bin`) into safetensors, in a child process with limits. Imports no
torch.

A pickle is a program. torch's weights-only unpickler runs only the parts that rebuild tensors. If it has a security
hole, only the child is affected: it has no network, starts no programs, and has limits on memory, time and size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from eda_service.config.base import Config
from eda_service.drafts.dialects.conversion_worker import ENVIRONMENT
from eda_service.drafts.dialects.files import TensorFile
from eda_service.drafts.dialects.record import PickledSource
from eda_service.drafts.dialects.refusal import PARAM, refusal
from eda_service.errors import UnsafeDraftError
from eda_service.targets.child import JsonChild

_MODULE = "eda_service.drafts.dialects.conversion_worker"


class ImportLimits(Config):
    """Limits on converting pickled files."""

    max_pickle_bytes: int = Field(16 << 30, ge=1 << 10, le=1 << 42, description="size of all pickled files of a draft")
    timeout_s: int = Field(600, ge=1, le=86_400, description="time to convert one file")


def require_pickle_size(sizes: Mapping[str, int], limits: ImportLimits) -> None:
    """Check the sizes in bytes of pickled files, by name.

    Raises:
        DraftIncompatibleError: The files are larger than the limit.
    """
    total = sum(sizes.values())
    if total > limits.max_pickle_bytes:
        raise refusal(
            f"{', '.join(list(sizes)[:3])} have {total} bytes, the limit for pickled weights is "
            f"{limits.max_pickle_bytes}; save the draft as safetensors, which has no limit, or raise the limit"
        )


def convert(paths: Sequence[Path], scratch: Path, limits: ImportLimits) -> tuple[TensorFile, ...]:
    """Convert pickled files to safetensors.

    Args:
        paths: Pickled files.
        scratch: Directory for the converted files.
        limits: Limits on memory, time and size.

    Raises:
        UnsafeDraftError: A file holds something else than tensors by name, or exceeds a limit.
    """
    require_pickle_size({path.name: path.stat().st_size for path in paths}, limits)
    child = JsonChild(_MODULE, options=("-P",), environment=ENVIRONMENT, timeout_s=limits.timeout_s)
    try:
        return tuple(_convert(child, path, scratch / f"{path.stem}.safetensors", limits) for path in paths)
    except RuntimeError as error:  # for example, the kernel does not confine the child
        raise UnsafeDraftError(
            f"{paths[0]} is a pickle, and no confined process to convert it in starts here ({error}); save the draft "
            "as safetensors on a machine where you trust it",
            param=PARAM,
        ) from error
    finally:
        child.close()


def _convert(child: JsonChild, source: Path, made: Path, limits: ImportLimits) -> TensorFile:
    order = {"source": str(source.resolve()), "made": str(made.resolve()), "max_bytes": limits.max_pickle_bytes}
    answer = child.ask({**order, "cpu_s": limits.timeout_s})
    if answer is None:
        made.unlink(missing_ok=True)
        raise UnsafeDraftError(
            f"{source} takes more than {limits.timeout_s} s, more memory than its size allows, or breaks its reader "
            "off; save the draft as safetensors on a machine where you trust it",
            param=PARAM,
        )
    if "error" in answer:
        made.unlink(missing_ok=True)
        raise UnsafeDraftError(f"{source}: {answer['error']}", param=PARAM)
    pickled = PickledSource(name=source.name, size_bytes=answer["size_bytes"], sha256=answer["sha256"])
    return TensorFile.of(made, pickled=pickled)
