"""The parts of a round's time: `make bench NAME=profile-decode` writes `results/profile-decode.json` and prints a
table.

The engine's own objects are wrapped in timers for the run; time outside all timers is Python and bookkeeping. One
request at a time (batch 1), the same prompts in every mode.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.workloads import DOMAINS, SHARED_DATA, Pair, header, load_pair, write_result
from eda_service.config.job import TreeConfig
from eda_service.decoding import rounds
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import SamplingParams
from eda_service.evaluation.decode import decode_all

PARTS = ("draft body", "draft head", "draft rest", "verify body", "verify head", "sampling", "python")


class Clocks:
    """Seconds by part; the time of a part inside another is subtracted from the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[float] = []
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Time every call of owner.name under `part`."""
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            self._open.append(0.0)
            try:
                return inner(*args, **kwargs)
            finally:
                spent = time.perf_counter() - started
                self.seconds[part] += spent - self._open.pop()
                if self._open:
                    self._open[-1] += spent

        setattr(owner, name, timed)
        self._undo.append(lambda: setattr(owner, name, inner))

    def unwrap(self) -> None:
        """Restore the wrapped functions."""
        for undo in reversed(self._undo):
            undo()


@torch.inference_mode()
def profile(engine: Engine, prompts: list[list[int]], temperature: float) -> dict[str, float]:
    """Measure milliseconds per round by part, prefill excluded."""
    params = SamplingParams(temperature=temperature, max_new_tokens=64, seed=0)
    decode_all(engine, prompts[:1], params)
    clocks = Clocks()
    runner, target = engine._rounds, engine.target
    clocks.wrap(target, "decoder", "verify body")
    clocks.wrap(target.head, "forward", "verify head")
    for name in ("distribution", "draw", "most_likely", "verify_greedy", "verify_sampled", "verify_tree", "is_finite"):
        clocks.wrap(rounds, name, "sampling")
    if runner.proposer is not None:
        clocks.wrap(runner.proposer, "draft", "draft body")
        clocks.wrap(runner.proposer.decoding_draft.head, "forward", "draft head")
        for name in ("chain", "tree"):
            clocks.wrap(runner.proposer, name, "draft rest")
    clocks.wrap(engine, "_round", "python")
    num_rounds = 0
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, params)
        before = dict(clocks.seconds)
        engine._admit([engine._waiting.popleft()])
        clocks.seconds = defaultdict(float, before)  # prefill is not a round
        while engine.has_work:
            num_rounds += len(engine.step())
    clocks.unwrap()
    return {part: clocks.seconds[part] / num_rounds * 1e3 for part in PARTS}


def modes(pair: Pair) -> dict[str, Engine]:
    """Make the engines by name."""
    draft = "adapted" if "adapted" in pair.drafts else "base"
    return {
        "autoregressive": pair.engine(None),
        "chain K=2": pair.engine(draft, num_draft_tokens=2),
        "chain K=5": pair.engine(draft, num_draft_tokens=5),
        "tree 7/3/3": pair.engine(draft, tree=TreeConfig(size=7, depth=3, width=3)),
        "tree 60/5/10": pair.engine(draft, tree=TreeConfig()),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="keep the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair = load_pair(DOMAINS[0], arguments.data, arguments.prompts)
    assert pair is not None
    rows = [
        {"mode": name, "temperature": temperature, "ms_per_round": profile(engine, pair.prompts, temperature)}
        for temperature in (0.0, 1.0)
        for name, engine in modes(pair).items()
    ]
    table = Table("mode", "T", *PARTS, "round", title="milliseconds per round, batch 1")
    for row in rows:
        parts = row["ms_per_round"]
        cells = [f"{parts[part]:.2f}" for part in PARTS]
        table.add_row(row["mode"], f"{row['temperature']:.0f}", *cells, f"{sum(parts.values()):.2f}")
    Console(file=sys.stderr, width=140).print(table)
    if arguments.write:
        write_result(
            "profile-decode.json",
            {**header("make bench NAME=profile-decode"), "threads": arguments.threads, "rows": rows},
        )


if __name__ == "__main__":
    main()
