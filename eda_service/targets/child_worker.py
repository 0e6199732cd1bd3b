"""Functions for the children of `JsonChild`: answers line by line, and limits that the kernel enforces."""

from __future__ import annotations

import json
import math
import resource
from typing import Any, TextIO


def limit(kind: int, value: int) -> None:
    """Limit a resource of this process, below the hard limit that it was started with.

    Args:
        kind: Constant `resource.RLIMIT_...`.
        value: Limit in the kernel's unit for the resource.
    """
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def limit_order(cpu_s: int) -> None:
    """Limit the processor time from now on; SIGXCPU, which ends the process, also stops a single long operation.

    Args:
        cpu_s: Seconds of processor time from now on.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + cpu_s)


def say(value: dict[str, Any], answers: TextIO) -> None:
    """Answer an order."""
    answers.write(json.dumps(value) + "\n")
    answers.flush()
