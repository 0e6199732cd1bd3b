"""Bounds of the children that read strangers' files."""

from __future__ import annotations

import subprocess
import sys

_BOUNDED = """
import os, resource
from eda_service.targets.child_worker import limit, limit_order
resource.setrlimit(resource.RLIMIT_CPU, (40, 40))
os.setuid(65534)  # root may raise a hard limit, others may not
limit_order(2)
soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
assert 2 <= soft <= 10 and hard == 40, (soft, hard)
limit(resource.RLIMIT_CPU, 100)
assert resource.getrlimit(resource.RLIMIT_CPU) == (40, 40)
"""


def test_a_hard_limit_of_whoever_started_the_service_is_kept() -> None:
    command = [sys.executable, "-c", _BOUNDED.replace("os.setuid(65534)", "os.getuid() or os.setuid(65534)")]
    subprocess.run(command, check=True, timeout=60)
