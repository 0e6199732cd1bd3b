"""Kills a process at one chosen operation: Python imports this by itself where this directory is on PYTHONPATH.

Nothing of it is in the product: it wraps what the product calls. `EDA_FAULT_FILE` names a file that, while it is there,
holds one fault as JSON:

    {"role": "api|driver|worker", "op": "fsync|replace|rename|commit|submit", "when": "before|after",
     "match": "train/record", "nth": 1}

`match` is a part of the path (of the destination, for moves). The process that comes to the nth such operation renames
the file to `*.fired`, so that the fault strikes once, and sends itself SIGKILL; with `"pause_s": 5` it waits there
instead, which holds a short stage open for somebody else to strike, and with `"memory_bytes": N` it may have only N
more from then on.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

_FILE = os.environ.get("EDA_FAULT_FILE", "")
_seen: dict[str, int] = {}


def _role() -> str:
    line = " ".join(getattr(sys, "orig_argv", sys.argv))
    if "-m api" in line:
        return "api"
    return "driver" if "jobs.adapt" in line else "worker"


def _strike(op: str, when: str, subject: str) -> None:
    try:
        with open(_FILE, encoding="utf-8") as stream:
            text = stream.read()
        fault = json.loads(text)
    except (OSError, ValueError):
        return
    if (fault["role"], fault["op"], fault["when"]) != (_role(), op, when) or fault.get("match", "") not in subject:
        return
    _seen[text] = _seen.get(text, 0) + 1
    if _seen[text] < fault.get("nth", 1):
        return
    try:
        os.link(_FILE, _FILE + ".fired")  # fails for all but the first
        os.unlink(_FILE)
    except OSError:
        return
    if fault.get("pause_s"):
        time.sleep(fault["pause_s"])
        return
    if fault.get("memory_bytes"):
        with open("/proc/self/statm", encoding="ascii") as stream:
            limit = int(stream.read().split()[0]) * resource.getpagesize() + fault["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _wrap(function: Callable[..., Any], op: str, subject: Callable[..., str]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        what = subject(*args)
        _strike(op, "before", what)
        result = function(*args, **kwargs)
        _strike(op, "after", what)
        return result

    return wrapped


def _path_of(descriptor: Any) -> str:
    number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def _install() -> None:
    os.fsync = _wrap(os.fsync, "fsync", _path_of)
    os.replace = _wrap(os.replace, "replace", lambda _source, destination: str(destination))
    os.rename = _wrap(os.rename, "rename", lambda _source, destination: str(destination))
    if _role() != "api":
        return
    from wrapt import when_imported

    @when_imported("sqlalchemy.engine.default")
    def _commits(module: Any) -> None:
        dialect = module.DefaultDialect
        dialect.do_commit = _wrap(dialect.do_commit, "commit", lambda *_: "")

    @when_imported("eda_service.raycluster.jobs_api")
    def _submits(module: Any) -> None:
        module.RayJobs.submit = _wrap(module.RayJobs.submit, "submit", lambda _self, name, *_: str(name))


if _FILE:
    _install()
