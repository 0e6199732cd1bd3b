"""`python -m eda_service.targets.checks.check_worker`: checks targets, one JSON order a line on standard input.

Reading a stranger's config, tokenizer and template needs torch and transformers, which the API's process does not
import, and may take any time and memory; here the kernel sets the limits. Each order is `{"model_dir", "adapter_dir",
"model", "converses", "engine"}`, each answer `{"notes"}` or `{"error": {"kind", "message", "param"}}`; an empty object
comes first. A child without orders ends by itself, and the next order starts a new one.
"""

from __future__ import annotations

import json
import os
import resource
import select
import sys
from pathlib import Path
from typing import Any, TextIO

from eda_service.targets.child_worker import limit, limit_order, say

CPU_S = 60
MEMORY_BYTES = 8 << 30
IDLE_S = 300.0
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
"""Variables of the child: nothing is downloaded, no GPU is used, and one core is enough."""


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Check one target."""
    from eda_service.config.job import EngineKind
    from eda_service.errors import EdaError, TargetIncompatibleError, reason_of
    from eda_service.targets.checks.check import check_target
    from eda_service.targets.files.resolve import ResolvedTarget

    adapter_dir = None if order["adapter_dir"] is None else Path(order["adapter_dir"])
    resolved = ResolvedTarget(Path(order["model_dir"]), adapter_dir, order["model"], None, None)
    try:
        engine = EngineKind(order.get("engine", EngineKind.EDA))
        return {"notes": list(check_target(resolved, converses=order["converses"], engine=engine))}
    except EdaError as error:
        return {"error": {"kind": type(error).__name__, "message": error.message, "param": error.param}}
    except Exception as error:  # for example, memory
        problem = f"{order['model']} cannot be checked ({reason_of(error)}); check its files with transformers"
        return {
            "error": {"kind": TargetIncompatibleError.__name__, "message": problem, "param": "target.model"},
        }


def work(answers: TextIO) -> None:
    """Answer orders until the input ends, or none comes for a while."""
    limit(resource.RLIMIT_DATA, MEMORY_BYTES)
    limit(resource.RLIMIT_CORE, 0)
    # Imported before the first order: the caller's time limit is longer for a start than for an answer.
    import eda_service.targets.checks.check

    assert eda_service.targets.checks.check is not None
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    say({}, answers)
    ready = select.poll()
    ready.register(sys.stdin, select.POLLIN | select.POLLHUP)
    while ready.poll(IDLE_S * 1000):
        line = sys.stdin.readline()
        if not line:
            return
        limit_order(CPU_S)
        say(answer(json.loads(line)), answers)


if __name__ == "__main__":
    # Output of libraries goes to the log, so that it does not mix with the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)
        work(stream)
