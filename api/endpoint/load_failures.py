"""Reasons why a model did not load: the model itself, or the state of the machine at that moment.

A model's files stay the same until somebody changes them, so a model that failed because of them is not loaded again by
itself. Memory, a node, a disk or a connection may be available the next time. `cause_of` decides by a table; an error
that the table does not name counts as the model's, because libraries raise errors of every kind when a file has an
unexpected form.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from enum import StrEnum

from eda_service.errors import EdaError, ResourceError

_MAX_CHARACTERS = 600


class Cause(StrEnum):
    """Whether the model or the machine kept a model from being loaded."""

    MODEL = "model"
    ENVIRONMENT = "environment"


# By kind; a subclass counts as its parent.
_KINDS: tuple[type[BaseException], ...] = (ResourceError, MemoryError, ConnectionError, TimeoutError)
# Kinds of libraries that need not be installed where this is decided: their top module and class.
_NAMED_KINDS = frozenset(
    {
        ("torch", "OutOfMemoryError"), ("torch", "AcceleratorError"), ("ray", "RayError"), ("httpx", "TransportError"),
        ("requests", "ConnectionError"), ("requests", "Timeout"), ("botocore", "EndpointConnectionError"),
        ("botocore", "HTTPClientError"),
    }
)  # fmt: skip
_NUMBERS = frozenset(
    {
        errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ESTALE,
        errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRINUSE,
    }
)  # fmt: skip
# Where a library says it in words alone: torch's allocators and drivers, vLLM's start.
_WORDS = re.compile(
    r"out of memory|can(?:'t|not) allocate memory|not enough memory|no space left on device|sees 0 of the 1 GPU"
    r"|CUDA error|CUDA driver|no CUDA GPUs|NCCL error|less than desired GPU memory|no available memory for the cache"
    r"|connection refused|connection reset",
    re.IGNORECASE,
)


def cause_of(error: BaseException) -> Cause:
    """Decide whether a failure may pass by itself.

    Args:
        error: Error raised while a model was loaded; the errors that caused it are looked at too.
    """
    return Cause.ENVIRONMENT if any(map(_is_environment, _chain(error))) else Cause.MODEL


def reason_of(error: BaseException) -> str:
    """Describe the failure for the deployment's owner: an error of this project by its text, a library's with type."""
    if isinstance(error, EdaError):
        return error.message
    text = " ".join(str(error).split())[:_MAX_CHARACTERS] or "without a message"
    kind = type(error).__name__
    if cause_of(error) is Cause.ENVIRONMENT:
        return f"the machine could not load it: {kind}: {text}"
    return (
        f"its files cannot be loaded: a library ended with {kind}: {text}; look at config.json, the tokenizer and the "
        "weights of the checkpoint; the replica's log has the traceback"
    )


def code_of(error: BaseException) -> str:
    """Return the stable code of the failure."""
    if isinstance(error, EdaError):
        return error.code
    return "load_failed" if cause_of(error) is Cause.MODEL else "resource_missing"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that caused it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__


def _is_environment(error: BaseException) -> bool:
    if isinstance(error, _KINDS) or (isinstance(error, EdaError) and error.retryable):
        return True
    named = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    if named & _NAMED_KINDS:
        return True
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return True
    return _WORDS.search(str(error)) is not None
