"""The cost of serving many variants of one base: `make bench NAME=variants` writes `benchmarks/results/variants.json`.

Memory: resident size of the process with the base alone and with one to four variants, each an adapter and a pack.
A load itself adds about what adapter and pack take; the rest comes with the first batches after it, a part of it
oneDNN's cached primitives for shapes not seen before.
Speed: the same requests in batches of one variant and in batches of all four; and one variant unmerged against merged.
Prompts are the shipped general ones, so acceptance is that of text the packs were not made for.

The fourth variant is the first one's adapter with every update scaled by 0.9 and its pack loaded once more.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import psutil
import torch

from benchmarks.workloads import DOMAINS, PACKS_BASE_DRAFT, header, write_result
from eda_service.config.job import TargetSpec
from eda_service.decoding.build import load_drafts
from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.fused.kinds import adapted_parts, shared_parts, whole_parts
from eda_service.decoding.fused.protocol import DecodingDraft
from eda_service.decoding.request import SamplingParams
from eda_service.raycluster.resources import limit_kernel_cache, release_free_memory
from eda_service.selfgen.prompts import general_prompts_file
from eda_service.storage.published.registry import find_draft
from eda_service.targets.adapters.adapter import Adapter, read_adapter
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.files.resolve import shipped_targets
from eda_service.targets.loader import Target, load_target

logger = logging.getLogger(__name__)

BATCH = 16
CHAIN = 3
BASE = "smollm2-135m-instruct"
ALLOWANCE = 1.1


def resident_bytes() -> int:
    """Return the resident size of this process, after freed memory was returned to the system."""
    release_free_memory()
    return int(psutil.Process().memory_info().rss)


def read_prompts(target: Target, count: int) -> list[list[int]]:
    """Render the first shipped general prompts."""
    rows = [json.loads(line) for line in general_prompts_file().read_text(encoding="utf-8").splitlines()[:count]]
    return [render_prompt(target.tokenizer, row["messages"]) for row in rows]


class Variants:
    """The four variants of the embedded base, loaded one by one."""

    def __init__(self, target: Target) -> None:
        base_dir = find_draft(PACKS_BASE_DRAFT)
        loaded = load_drafts(base_dir, None, target=target)
        self._target, self._base_dir = target, base_dir
        self.base = DecodingDraft(shared_parts(loaded.draft), loaded.draft.head(target.lm_head, loaded.vocab_W))
        self.names = [*(domain.name for domain in DOMAINS), "fourth"]

    def decoding_draft(self, name: str, *, whole: bool = False) -> DecodingDraft:
        """Make a variant's pack over the shared base draft, or as a draft of its own."""
        domain = next((each for each in DOMAINS if each.name == name), DOMAINS[0])
        loaded = load_drafts(self._base_dir, domain.pack_dir, target=self._target)
        assert loaded.trained is not None
        parts = whole_parts(loaded.draft) if whole else adapted_parts(loaded.draft, self.base.parts, loaded.trained)
        return DecodingDraft(parts, loaded.draft.head(self._target.lm_head, loaded.vocab_W))

    def adapter(self, name: str) -> Adapter:
        """Read a variant's adapter."""
        domain = next((each for each in DOMAINS if each.name == name), None)
        directory = shipped_targets() / (domain or DOMAINS[0]).target
        found = read_adapter(directory, dtype=self._target.dtype, device=self._target.device)
        if domain is not None:
            return found
        updates = {place: (a_rI, b_Or * 0.9) for place, (a_rI, b_Or) in found.updates.items()}
        return dataclasses.replace(found, key=name, updates=updates)


def run(engine: Engine, requests: Sequence[tuple[str, list[int]]], params: SamplingParams) -> float:
    """Measure tokens per second of one batch."""
    started = time.perf_counter()
    for i, (variant, ids) in enumerate(requests):
        engine.submit(str(i), ids, params, variant=variant)
    done = run_to_end(engine)
    seconds = time.perf_counter() - started
    return sum(outputs[-1].stats.num_new_tokens for outputs in done.values()) / seconds


def spread(prompts: list[list[int]], names: Iterable[str]) -> list[tuple[str, list[int]]]:
    """Distribute prompts over variants in turn."""
    return list(zip(itertools.cycle(names), prompts, strict=False))


def medians(cases: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Measure median tokens per second of each case; the cases take turns."""
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            seen[name].append(case())
    return {name: median(values) for name, values in seen.items()}


def measure_memory(engine: Engine, variants: Variants, warm: Callable[[], float]) -> list[dict[str, Any]]:
    """Measure the resident size as variants are added, beside the sum of base, adapters and packs."""
    warm()
    base = resident_bytes()
    rows: list[dict[str, Any]] = [{"variants": 0, "resident_bytes": base}]
    pack_bytes = 0
    for count, name in enumerate(variants.names, start=1):
        decoding_draft = variants.decoding_draft(name)
        engine.add_variant(name, adapter=variants.adapter(name), decoding_draft=decoding_draft)
        pack_bytes += decoding_draft.own_bytes(variants.base)
        warm()
        sizes = sum(load.adapter_bytes for load in engine.variant_loads().values())
        resident, allowed = resident_bytes(), round(ALLOWANCE * (base + sizes + pack_bytes))
        rows.append(
            {
                "variants": count,
                "resident_bytes": resident,
                "adapter_bytes": sizes,
                "pack_bytes": pack_bytes,
                "allowed_bytes": allowed,
                "within": resident <= allowed,
            }
        )
    return rows


def measure_batches(
    engine: Engine, names: Sequence[str], prompts: list[list[int]], params: SamplingParams, repeats: int
) -> dict[str, float]:
    """Measure tokens per second of batches of one variant each, and of all variants; every variant gets the same
    prompts in both.
    """
    share = BATCH // len(names)
    single = {name: [(name, ids) for ids in prompts] for name in names}
    mixed = [[(name, ids) for name in names for ids in prompts[i * share : (i + 1) * share]] for i in range(len(names))]

    def over(batches: Sequence[list[tuple[str, list[int]]]]) -> float:
        return len(batches) / sum(1 / run(engine, batch, params) for batch in batches)

    found = medians({"single": lambda: over(list(single.values())), "mixed": lambda: over(mixed)}, repeats)
    return {**found, "mixed_over_single": found["mixed"] / found["single"]}


def merged_engine(variants: Variants) -> Engine:
    """Make an engine of the first variant alone: merged, with a draft that shares nothing."""
    target = load_target(TargetSpec(model=DOMAINS[0].target))
    engine = Engine(target, num_draft_tokens=CHAIN, max_batch=BATCH, max_tokens=1024)
    engine.add_variant(DOMAINS[0].name, decoding_draft=variants.decoding_draft(DOMAINS[0].name, whole=True))
    return engine


def measure_merged(
    engine: Engine, merged: Engine, prompts: list[list[int]], params: SamplingParams, repeats: int
) -> dict[str, float]:
    """Measure tokens per second of the first variant beside others, and of its merged target alone."""
    requests = [(DOMAINS[0].name, ids) for ids in prompts]
    cases: dict[str, Callable[[], float]] = {
        "unmerged": lambda: run(engine, requests, params),
        "merged": lambda: run(merged, requests, params),
        "unmerged_batch_1": lambda: run(engine, requests[:1], params),
        "merged_batch_1": lambda: run(merged, requests[:1], params),
    }
    found = medians(cases, repeats)
    return {
        **found,
        "unmerged_over_merged": found["unmerged"] / found["merged"],
        "unmerged_over_merged_batch_1": found["unmerged_batch_1"] / found["merged_batch_1"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    limit_kernel_cache()
    torch.set_num_threads(options.threads)
    target = load_target(TargetSpec(model=BASE))
    variants = Variants(target)
    prompts = read_prompts(target, BATCH)
    engine = Engine(target, num_draft_tokens=CHAIN, max_batch=BATCH, max_tokens=1024)
    engine.add_variant("base", decoding_draft=variants.base)
    short = SamplingParams(max_new_tokens=8)
    memory = measure_memory(engine, variants, lambda: run(engine, spread(prompts, engine.variant_loads()), short))
    modes = {
        "autoregressive": SamplingParams(max_new_tokens=options.max_new_tokens, speculate=False),
        f"chain of {CHAIN}": SamplingParams(max_new_tokens=options.max_new_tokens),
    }
    result: dict[str, Any] = {
        **header(" ".join(("python -m benchmarks.variants", *sys.argv[1:]))),
        "threads": options.threads,
        "repeats": options.repeats,
        "base_bytes": target.size_bytes + variants.base.own_bytes(None),
        "memory": memory,
        "batches_of_16": {},
        "merged": {},
    }
    logger.info("memory: %s", json.dumps(memory))
    merged = merged_engine(variants)
    for mode, params in modes.items():
        result["batches_of_16"][mode] = measure_batches(engine, variants.names, prompts, params, options.repeats)
        result["merged"][mode] = measure_merged(engine, merged, prompts, params, options.repeats)
        logger.info("%s: %s %s", mode, result["batches_of_16"][mode], result["merged"][mode])
    logger.info("%s", write_result("variants.json", result))


if __name__ == "__main__":
    main()
