"""The table of goals: every number that the project aims at beside the measured one from a result file.

`python -m benchmarks.ledger` writes `results/goals.md`; a test compares the committed table with its output.
`benchmarks/README.md` explains the goals that were missed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.paper.goals import AT_LEAST, AT_MOST

RESULTS = Path(__file__).parent / "results"
LEDGER = RESULTS / "goals.md"
Result = dict[str, Any]
_HEAD = """# The ledger of goals

Written by `python -m benchmarks.ledger` from the result files, each of which names its machine, commit and library
versions. For the paper's grid the date is that of the newest cell of the domain, and the number that of the first seed.
What is known about the goals that were missed is in [the measurements](../README.md).

| Goal | Bound | Measured | Met | Command | File | Date |
|---|---|---|---|---|---|---|
"""


class Goal(NamedTuple):
    """One line of the table.

    Attributes:
        text: Description of the measured number.
        bound: Number that was aimed at.
        is_least: Whether the measured number is to be at least the bound; else at most.
        command: Command that measures it.
        file: Result file below `results/`.
        value: Function that takes the number from the file.
    """

    text: str
    bound: float
    is_least: bool
    command: str
    file: str
    value: Callable[[Result], float]


def _speedup(target: str, temperature: float) -> Callable[[Result], float]:
    """Return a function for the speedup over our own decoding without a draft, one request at a time."""
    return lambda result: _row(
        result, engine="eda-service", target=target, batch=1, temperature=temperature, draft=_ADAPTED
    )["speedup_over_own_autoregressive"]


def _ours_over(engine: str, batch: int, temperature: float) -> Callable[[Result], float]:
    """Return a function for the speed of our decoding without a draft divided by that of another engine, in math."""
    return lambda result: (
        1
        / float(
            _row(result, engine=engine, target=_MATH, batch=batch, temperature=temperature, draft=None)[
                "speedup_over_own_autoregressive"
            ]
        )
    )


def _row(result: Result, **wanted: object) -> Result:
    rows: list[Result] = [row for row in result["rows"] if all(row[key] == value for key, value in wanted.items())]
    assert len(rows) == 1, wanted
    return rows[0]


def _worst_adaptive(result: Result) -> float:
    """Return the smallest speedup of all adaptive chains over decoding without a draft."""
    drafted = (row for row in result["rows"] if "adaptive" in (row["draft"] or ""))
    return min(float(row["speedup_over_own_autoregressive"]) for row in drafted)


_MATH = "smollm2-135m-math"
_ADAPTED = "adapted, adaptive chain up to 5"
_DECODE = ("make bench NAME=decode", "decode.json")
_SERVING = ("make bench NAME=serving", "serving.json")
_JOBS = ("make bench NAME=jobs", "jobs.json")
_TEST_VLLM = ("make test-vllm", "vllm.json")
_VLLM_JOB = ("make bench NAME=vllm-job", "vllm-job.json")
_STORAGE = ("make bench NAME=storage", "storage.json")
_DOMAINS = ("math", "code", "medical")
_EAGLE3_GOALS = (
    (
        "an imported EAGLE-3 draft in {}, `best` over LoRA of equal bytes",
        1.0,
        "best_over_lora_equal_bytes",
        ("math", "code"),
    ),
    ("an imported EAGLE-3 draft in {}, `best` over full fine-tuning", 1.0, "best_over_full_ft", ("math",)),
    ("an imported EAGLE-3 draft in {}, `best` over the draft on its own base target", 0.95, "recovered", _DOMAINS),
    ("`best` over EAGLE-3 over `best` over EAGLE-1, {}", 1.1, "eagle3_over_eagle1", _DOMAINS),
)
_VLLM_3 = ("python -m benchmarks.vllm_export", "vllm-eagle3.json")

GOALS = (
    Goal("batch 1 without a draft, over transformers' best `generate`", 2.0, True, *_DECODE,
         _ours_over("transformers", 1, 0.0)),
    Goal("batch 1 without a draft, over vLLM (CPU)", 1.2, True, *_DECODE, _ours_over("vllm-cpu", 1, 0.0)),
    Goal("batch 16 without a draft, over vLLM (CPU), T=0", 1.0, True, *_DECODE, _ours_over("vllm-cpu", 16, 0.0)),
    Goal("batch 16 without a draft, over vLLM (CPU), T=1", 1.0, True, *_DECODE, _ours_over("vllm-cpu", 16, 1.0)),
    Goal("fraction of the memory-bandwidth floor", 0.4, True, *_DECODE, lambda d: d["limit"]["fraction_of_floor"]),
    Goal("adapted draft over no draft, T=0, math", 2.0, True, *_DECODE, _speedup(_MATH, 0.0)),
    Goal("adapted draft over no draft, T=0, medical", 1.7, True, *_DECODE, _speedup("smollm2-135m-medical", 0.0)),
    Goal("adapted draft over no draft, T=0, code", 1.7, True, *_DECODE, _speedup("smollm2-135m-code", 0.0)),
    Goal("adapted draft over no draft, T=1, math", 1.4, True, *_DECODE, _speedup(_MATH, 1.0)),
    Goal("adapted draft over no draft, T=1, medical", 1.4, True, *_DECODE, _speedup("smollm2-135m-medical", 1.0)),
    Goal("adapted draft over no draft, T=1, code", 1.4, True, *_DECODE, _speedup("smollm2-135m-code", 1.0)),
    Goal("efficiency of drafting, T=0, math", 0.7, True, *_DECODE,
         lambda d: _row(d, target=_MATH, batch=1, temperature=0.0, draft=_ADAPTED)["efficiency"]),
    Goal("adaptive depth, at worst over no draft", 0.97, True, *_DECODE, _worst_adaptive),
    Goal("requests with an error at 1, 4 and 16 streams", 0, False, *_SERVING, lambda d: d["num_errors"]),
    Goal("tokens a second, 16 streams over one", 3.0, True, *_SERVING, lambda d: d["throughput_16_over_1"]),
    Goal("overhead over the bare engine, 16 streams, a fraction", 0.1, False, *_SERVING,
         lambda d: d["overhead"]["overhead_fraction"]),
    Goal("resident memory of four variants over what is allowed", 1.0, False, *_SERVING,
         lambda d: d["memory"]["resident_bytes"] / d["memory"]["allowed_bytes"]),
    Goal("mixed batch of four variants over single-variant batches", 0.8, True, *_SERVING,
         lambda d: d["variants"]["mixed_over_single"]),
    Goal("requests of 500 that failed while packs were swapped", 0, False, *_SERVING,
         lambda d: d["swap"]["num_failed"]),
    Goal("requests of 500 whose answer changed while packs were swapped", 0, False, *_SERVING,
         lambda d: d["swap"]["num_changed"]),
    Goal("acceptance inside vLLM away from our engine's, plugin export, a fraction", 0.02, False, *_TEST_VLLM,
         lambda d: abs(d["agreement"]["plugin_over_ours"] - 1)),
    Goal("greedy answers of 24 that differ with a draft, float32, in vLLM", 0, False, *_TEST_VLLM,
         lambda d: d["greedy_identity_plugin_float32"]["num_different"]),
    Goal("acceptance inside vLLM away from our engine's, EAGLE-3, plugin export, a fraction", 0.02, False, *_VLLM_3,
         lambda d: abs(d["agreement"]["plugin_over_ours"] - 1)),
    Goal("acceptance inside vLLM away from our engine's, EAGLE-3, dense export, a fraction", 0.02, False, *_VLLM_3,
         lambda d: abs(d["agreement"]["dense_over_ours"] - 1)),
    *(
        Goal(text.format(domain), least, True, "make bench NAME=eagle3", "eagle3/summary.json",
             itemgetter(f"{domain}.{key}"))
        for text, least, key, domains in _EAGLE3_GOALS
        for domain in domains
    ),
    Goal("self-generation with states over vLLM that only writes", 0.95, True, "make bench NAME=vllm",
         "vllm-selfgen.json", lambda d: d["states_over_writing"]),
    Goal("a whole adaptation inside vLLM away from the own engine's, acceptance, a fraction", 0.02, False, *_VLLM_JOB,
         lambda d: abs(d["acceptance_over_own"]["vllm"] - 1)),
    Goal("processes beside vLLM's that map the target's weights", 0, False, *_VLLM_JOB,
         lambda d: len(d["roles_with_the_target_beside_vllm"])),
    Goal("self-generation by two workers over one, per worker", 0.9, True, "make bench NAME=scaling", "scaling.json",
         lambda d: d["efficiency"]),
    Goal("self-generation by two workers over one, per worker, each with a vLLM", 0.9, True,
         "python -m benchmarks.scaling --engine vllm", "scaling-vllm.json", lambda d: d["efficiency"]),
    Goal("10,000 shards on disk, slowest step, seconds", 10, False, *_STORAGE,
         lambda d: max(d["disk"][f"{key}_s"] for key in ("resume", "manifest", "write_record", "read_record"))),
    Goal("10,000 shards on S3, slowest step, seconds", 10, False, *_STORAGE,
         lambda d: max(d["s3"][f"{key}_s"] for key in ("resume_after_kill", "manifest", "write_record"))),
    Goal("POST p99 on SQLite, milliseconds", 50, False, *_JOBS, lambda d: d["sqlite"]["posts"]["p99"]),
    Goal("POST p99 on PostgreSQL, milliseconds", 50, False, *_JOBS, lambda d: d["postgresql"]["posts"]["p99"]),
    Goal("list p99 on SQLite, milliseconds", 50, False, *_JOBS, lambda d: d["sqlite"]["lists"]["p99"]),
    Goal("list p99 on PostgreSQL, milliseconds", 50, False, *_JOBS, lambda d: d["postgresql"]["lists"]["p99"]),
    Goal("dispatcher pass p99, PostgreSQL, milliseconds", 100, False, *_JOBS,
         lambda d: d["postgresql"]["dispatcher_pass_ms"]["p99"]),
    Goal("POST to running driver, slowest of five, seconds", 5, False, *_JOBS,
         lambda d: d["post_to_running_driver"]["max_s"]),
    Goal("broken promises in 90 faults", 0, False, "make proof NAME=faults", "faults.json",
         lambda d: d["num_broken_promises"]),
    Goal("adaptations of five that did not succeed under kill -9", 0, False, "make proof NAME=kills", "kills.json",
         lambda d: d["num_jobs"] - d["num_succeeded"]),
)  # fmt: skip
"""The goals outside the paper's grid; those of the grid are in `benchmarks.paper.goals`."""


def ledger(results: Path = RESULTS) -> str:
    """Write the table as Markdown.

    Args:
        results: Directory of result files.
    """
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in (*_goals(results), *_grid(results)))


def _goals(results: Path) -> Iterator[tuple[str, ...]]:
    for goal in GOALS:
        result = _read(results / goal.file)
        yield _cells(goal, float(goal.value(result)), result["date"])


def _grid(results: Path) -> Iterator[tuple[str, ...]]:
    summary = _read(results / "paper" / "summary.json")
    for bounds, is_least in ((AT_LEAST, True), (AT_MOST, False)):
        for name, bound in bounds.items():
            newest = max(_read(path)["date"] for path in (results / "paper").glob(f"{name.split('.')[0]}-*-s*.json"))
            goal = Goal(
                f"grid: `{name}`", bound, is_least, "make bench NAME=paper", "paper/summary.json", itemgetter(name)
            )
            yield _cells(goal, float(goal.value(summary)), newest)


def _cells(goal: Goal, value: float, date: str) -> tuple[str, ...]:
    is_met = value >= goal.bound if goal.is_least else value <= goal.bound
    bound = f"at {'least' if goal.is_least else 'most'} {goal.bound:g}"
    link = f"[{goal.file}]({goal.file})"
    return goal.text, bound, f"{value:.4g}", "yes" if is_met else "**no**", f"`{goal.command}`", link, date


def _read(path: Path) -> Result:
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    return result


if __name__ == "__main__":
    LEDGER.write_text(ledger(), encoding="utf-8")
