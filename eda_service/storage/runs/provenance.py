"""Provenance in records: the software and the machine that made them."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("eda-service", "ray", "torch", "transformers", "deepspeed", "scikit-learn", "safetensors", "peft")


@cache
def library_versions() -> dict[str, str]:
    """Return installed versions of the packages that shape a result; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def machine() -> dict[str, str]:
    """Return processor, core count and operating system of this host."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
        model = names[0] if names else model
    except OSError:
        pass  # not Linux: use platform's name of the processor
    return {
        "processor": model,
        "cores": str(os.cpu_count() or 1),
        "system": f"{platform.system()} {platform.release()}",
    }
