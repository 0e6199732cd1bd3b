"""What libraries raise over files of strangers, as an error that says what was tried and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from eda_service.errors import EdaError, TargetIncompatibleError, reason_of


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
    except (EdaError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):  # torch's own words on a CPU
            raise
        raise TargetIncompatibleError(
            f"{model} does not load, or this engine cannot drive it ({reason_of(error)}); check its files with "
            "transformers, serve it on vLLM (engine vllm), or name a target of a family that "
            "docs/reference/families.md lists",
            param="target.model",
        ) from error
