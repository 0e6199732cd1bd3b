"""Errors of libraries on files of strangers, turned into errors that name the action and the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from eda_service.errors import EdaError, TargetIncompatibleError, reason_of


def lacks_memory(error: Exception) -> bool:
    """Whether the machine has too little memory; on a CPU torch reports this with the words of a `RuntimeError`."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def told(model: str) -> Iterator[None]:
    """Wrap code that builds a model from files. The caught exceptions are broad on purpose: transformers builds
    whatever a config describes, and any of its lines may fail on it.

    Args:
        model: Name of the model as the caller wrote it.

    Raises:
        TargetIncompatibleError: The files cannot be used; a lack of memory is raised unchanged.
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
