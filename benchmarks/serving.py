"""The endpoint under load: `make bench NAME=serving` writes `benchmarks/results/serving.json` (QUICK=1:
`serving-quick.json`).

`eda up` runs with SmolLM2 and the committed packs; every request goes through the API. Measured are streams in a closed
loop, the engine of the same replica alone, four variants on one replica, packs swapped under load, and replicas that
are added and removed. The load generator runs on the same machine and takes its share of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from benchmarks import serving_scaling, serving_swap
from benchmarks.bench_service import BASE, BenchService, put_fourth, smollm2_service
from benchmarks.cpu_shares import cpu_shares
from benchmarks.serving_load import Seen, body_of, closed_loop
from benchmarks.serving_prompts import sums
from benchmarks.workloads import DOMAINS, PACKS_BASE_DRAFT, ROOT, header, write_result

logger = logging.getLogger(__name__)

MATH = DOMAINS[0]
STREAMS = (1, 4, 16)
SCALING_STREAMS = 8
VARIANTS = (*(domain.name for domain in DOMAINS), "fourth")
MAX_TOKENS = 96
OVERHEAD_TURNS = 5
ALLOWANCE = 1.1


def bodies(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Generate endless requests: prompts in turn, variants in turn."""
    prompts = itertools.cycle(sums())
    return (body_of(name, next(prompts), MAX_TOKENS) for name in itertools.cycle(names))


def bare(bench_service: BenchService, num_streams: int, seconds: float) -> float:
    """Measure tokens per second of the replica's engine alone, in a process of its own, while the service is idle."""
    command = [sys.executable, "-m", "benchmarks.serving_bare", "--target", MATH.target]
    command += ["--base-draft", PACKS_BASE_DRAFT, "--pack", f"{MATH.target}@1", "--streams", str(num_streams)]
    command += ["--max-tokens", str(MAX_TOKENS), "--seconds", str(seconds)]
    command += ["--threads", str(len(os.sched_getaffinity(0)))]
    env = {**os.environ, "EDA_HOME": str(bench_service.home)}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["tokens_per_s"])


def measure_streams(bench_service: BenchService, seconds: float) -> dict[str, Any]:
    """Measure each number of streams, the largest last, to one deployment that is alone on its base."""
    found: dict[str, Any] = {}
    bench_service.deploy(MATH.name, model=MATH.target, pack=f"{MATH.target}@1")
    for num_streams in STREAMS:
        found[str(num_streams)] = _load(bench_service, num_streams, seconds)
    bench_service.remove(MATH.name)
    return {
        "streams": found,
        "num_errors": sum(each["num_errors"] for each in found.values()),
        "throughput_16_over_1": found[str(max(STREAMS))]["tokens_per_s"] / found["1"]["tokens_per_s"],
    }


def measure_overhead(bench_service: BenchService, seconds: float) -> dict[str, Any]:
    """Measure the largest number of streams through the service and the engine alone in turns, the engine first and
    last: the median of each turn's loss against the two beside it. Both have the adapter merged, as a model that is
    alone on its base has.
    """
    bench_service.deploy(MATH.name, model=MATH.target, pack=f"{MATH.target}@1")
    bare_rates, turns = [bare(bench_service, max(STREAMS), seconds)], []
    for _ in range(OVERHEAD_TURNS):
        turns.append(_load(bench_service, max(STREAMS), seconds))
        bare_rates.append(bare(bench_service, max(STREAMS), seconds))
        logger.info("the engine alone: %s", bare_rates[-2:])
    bench_service.remove(MATH.name)
    rates = [turn["tokens_per_s"] for turn in turns]
    lost = [
        1 - 2 * rate / (before + after)
        for rate, (before, after) in zip(rates, itertools.pairwise(bare_rates), strict=True)
    ]
    return {
        "seconds": seconds,
        "served": turns,
        "bare_tokens_per_s": bare_rates,
        "overhead_fractions": lost,
        "overhead_fraction": statistics.median(lost),
        "num_errors": sum(turn["num_errors"] for turn in turns),
    }


def _load(bench_service: BenchService, num_streams: int, seconds: float) -> dict[str, Any]:
    with cpu_shares(bench_service) as shares:
        seen = closed_loop(bench_service.url, bodies([MATH.name]), num_streams, seconds)
    found = seen.summary() | {"cpu_shares": shares}
    logger.info("%d streams: %s", num_streams, found)
    return found


def replica_bytes(bench_service: BenchService) -> int:
    """Measure the resident size of the one replica."""
    replicas = [each for each in bench_service.processes() if "ServeReplica" in " ".join(each.cmdline())]
    assert len(replicas) == 1, replicas
    return int(replicas[0].memory_info().rss)


def measure_memory(bench_service: BenchService, seconds: float) -> dict[str, Any]:
    """Measure the resident size of the replica with the base alone and with four variants, each time after the same
    load.
    """
    bench_service.deploy("base", model=BASE, base_draft=PACKS_BASE_DRAFT)
    closed_loop(bench_service.url, bodies(["base"]), max(STREAMS), seconds)
    base = replica_bytes(bench_service)
    fourth = put_fourth(bench_service.home)
    for domain in DOMAINS:
        bench_service.deploy(domain.name, model=domain.target, pack=f"{domain.target}@1")
    bench_service.deploy("fourth", model=BASE, adapter=str(fourth), pack="fourth@1")
    closed_loop(bench_service.url, bodies(VARIANTS), max(STREAMS), seconds)
    resident = replica_bytes(bench_service)
    memory = [httpx.get(f"{bench_service.url}/v1/deployments/{name}", timeout=60).json()["memory"] for name in VARIANTS]
    variants = sum(each["adapter_bytes"] + each["pack_bytes"] for each in memory)
    return {
        "base_resident_bytes": base,
        "variants_bytes": variants,
        "resident_bytes": resident,
        "allowed_bytes": round(ALLOWANCE * (base + variants)),
        "within": resident <= ALLOWANCE * (base + variants),
    }


def measure_mixed(bench_service: BenchService, seconds: float) -> dict[str, Any]:
    """Measure tokens per second of sixteen streams of each variant alone, and over all four."""
    single: dict[str, Seen] = {
        name: closed_loop(bench_service.url, bodies([name]), max(STREAMS), seconds / len(VARIANTS)) for name in VARIANTS
    }
    mixed = closed_loop(bench_service.url, bodies(VARIANTS), max(STREAMS), seconds)
    alone = {name: seen.num_tokens / seen.seconds for name, seen in single.items()}
    harmonic = len(alone) / sum(1 / each for each in alone.values())
    return {
        "single_tokens_per_s": alone,
        "mixed": mixed.summary(),
        "mixed_over_single": mixed.num_tokens / mixed.seconds / harmonic,
        "num_errors": len(mixed.errors) + sum(len(seen.errors) for seen in single.values()),
    }


def main() -> None:
    """Measure and write; fail if a request failed or an answer changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--swap-requests", type=int, default=500)
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--overhead", action="store_true", help="16 streams and the bare engine in turns, nothing else")
    alone.add_argument("--memory", action="store_true", help="the base alone and with four variants, nothing else")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    seconds = 10.0 if arguments.quick else arguments.seconds
    if arguments.overhead:
        command = f"python -m benchmarks.serving --overhead --seconds {seconds:g}"
        with smollm2_service() as bench_service:
            found = measure_overhead(bench_service, seconds)
        write_result("serving-overhead.json", {**header(command), "max_tokens": MAX_TOKENS, **found})
        return
    if arguments.memory:
        command = f"python -m benchmarks.serving --memory --seconds {seconds:g}"
        with smollm2_service() as bench_service:
            memory = measure_memory(bench_service, seconds)
        write_result("serving-memory.json", {**header(command), "seconds": seconds, **memory})
        return
    num_swap_requests = 60 if arguments.quick else arguments.swap_requests
    command = "make bench NAME=serving QUICK=1" if arguments.quick else "make bench NAME=serving"
    result: dict[str, Any] = {**header(command), "seconds": seconds, "max_tokens": MAX_TOKENS}
    with smollm2_service() as bench_service:
        result |= measure_streams(bench_service, seconds)
        result["overhead"] = measure_overhead(bench_service, seconds / 4)
        result["memory"] = measure_memory(bench_service, seconds)
        logger.info("memory: %s", result["memory"])
        result["variants"] = measure_mixed(bench_service, seconds)
        logger.info("variants: %s", result["variants"])
        bench_service.deploy("swap", model=MATH.target, dtype="float32", pack=f"{MATH.target}@1")
        result["swap"] = serving_swap.measure(
            bench_service, "swap", f"{MATH.target}@1", sums()[:20], num_swap_requests, 48
        )
        bench_service.remove("swap")
        logger.info("swap: %s", result["swap"])
        result["scaling"] = serving_scaling.measure(bench_service, MATH.name, bodies([MATH.name]), SCALING_STREAMS)
        logger.info("scaling: %s", result["scaling"])
    write_result("serving-quick.json" if arguments.quick else "serving.json", result)
    swap, scaling = result["swap"], result["scaling"]
    failed = sum(part["num_errors"] for part in (result, result["overhead"], result["variants"], scaling))
    if failed + swap["num_failed"] + swap["num_changed"]:
        raise SystemExit("requests failed or answers changed")


if __name__ == "__main__":
    main()
