"""What libraries raise over files of strangers, as an error that says what was tried and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from eda_service.errors import EdaError, TargetIncompatibleError, reason_of


def lacks_memory(error: Exception) -> bool:
    """Whether it is the machine that is too small; on a CPU torch says so in a `RuntimeError`'s words."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def told(model: str) -> Iterator[None]:
    """Around whatever builds a model from files. Broad on purpose: transformers builds whatever a config describes, and
    any of its lines may fail on it.

    Args:
        model: As the caller named it.

    Raises:
        TargetIncompatibleError: The files cannot be used; a lack of memory stays what it is.
    """
    try:
        yield
    except EdaError:
        raise
    except Exception as error:
        if lacks_memory(error):
            raise
        raise TargetIncompatibleError(
            f"{model} does not load, or this engine cannot drive it ({reason_of(error)}); check its files with "
            "transformers, serve it on vLLM (engine vllm), or name a target of a family that "
            "docs/reference/families.md lists",
            param="target.model",
        ) from error
