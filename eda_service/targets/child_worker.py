"""What the children behind `JsonChild` have in common: answers line by line, and bounds that the kernel sets."""

from __future__ import annotations

import json
import math
import resource
from typing import Any, TextIO


def limit(kind: int, value: int) -> None:
    """Bound what this process may take, below the hard limit that it was started with.

    Args:
        kind: `resource.RLIMIT_...`.
        value: In the kernel's unit for it.
    """
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def limit_order(cpu_s: int) -> None:
    """Bound the processor time of what comes next; SIGXCPU, which ends the process, stops a single long operation too.

    Args:
        cpu_s: Seconds from now on.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + cpu_s)


def say(value: dict[str, Any], answers: TextIO) -> None:
    """Answer an order."""
    answers.write(json.dumps(value) + "\n")
    answers.flush()
