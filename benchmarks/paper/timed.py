"""Wall clock of the headline cells, for a quiet machine: `make bench-paper-timed` fills `speedup` into their files.

Every draft of a domain, and none, in turns over the same prompts, one at a time, as an endpoint decodes (chains whose
depth adapts); medians of the repeats.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from benchmarks.pairs import SHARED_DATA
from benchmarks.paper.domains import PaperDomain, domains_of
from benchmarks.paper.run import CHAIN, HOME, OUT
from benchmarks.paper.tasks import MAX_NEW_TOKENS, MAX_PROMPT_TOKENS, transcripts_of
from eda_service.artifacts.registry import find_draft
from eda_service.artifacts.rundir import RunDir
from eda_service.distributed.endpoint import load_drafts, make_engine
from eda_service.evaluation.speed import BASELINE, measure_speed
from eda_service.records import Stage
from eda_service.target.loader import load_target

TIMED = ("training-free-none", "full_ft-original", "lora-original", "eda-original", "eda-selfgen", "best-selfgen")


def time_domain(domain: PaperDomain, data: Path, prompts_per_task: int, repeats: int) -> None:
    """Measure and write a domain's cells."""
    name = domain.name
    paths = {key: OUT / f"{name}-{key}-s0.json" for key in TIMED}
    cells = {key: json.loads(path.read_text(encoding="utf-8")) for key, path in paths.items() if path.exists()}
    target = load_target(domain.target)
    engines = {BASELINE: make_engine(target, None, num_draft_tokens=1, max_batch=1, max_tokens=MAX_PROMPT_TOKENS + 256)}
    for key, cell in cells.items():
        pack = None if key.startswith("training") else RunDir.of_job(paths[key].stem, HOME).root / Stage.TRAIN / "pack"
        if pack is not None and not pack.exists():
            sys.stderr.write(f"{pack} is gone: {key} is not timed; run its cell again\n")
            continue
        engines[key] = make_engine(
            target,
            load_drafts(find_draft(cell["base_draft"]), pack, target=target),
            num_draft_tokens=CHAIN,
            adaptive=True,
            max_batch=1,
            max_tokens=MAX_PROMPT_TOKENS + 256,
        )
    transcripts = transcripts_of(target, name, domain.tasks, data, HOME / "transcripts", sampled=False)
    prompts = [
        each.token_ids[: each.num_prompt_tokens] for texts in transcripts.values() for each in texts[:prompts_per_task]
    ]
    for temperature in (0.0, 1.0):
        rows = measure_speed(
            engines, prompts, temperature=temperature, max_new_tokens=MAX_NEW_TOKENS, num_repeats=repeats
        )
        for row in rows:
            if row.mode in cells:
                spread = (row.speedup_over_autoregressive, row.speedup_min, row.speedup_max)
                found = {key: round(value, 3) for key, value in zip(("median", "min", "max"), spread, strict=True)}
                timed = cells[row.mode]["speedup"] or {}
                cells[row.mode]["speedup"] = {**timed, f"T{temperature:g}": found}
                sys.stderr.write(f"{name} {row.mode} T={temperature:g}: {found}\n")
    for key, cell in cells.items():
        paths[key].write_text(json.dumps(cell, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Domain by domain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA)
    parser.add_argument("--domains", help="shipped ones, separated by commas; default: all")
    parser.add_argument("--domain", type=Path, action="append", default=[], help="JSON file of a domain of your own")
    parser.add_argument("--prompts-per-task", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for domain in domains_of(arguments.domains, arguments.domain):
        time_domain(domain, arguments.data, arguments.prompts_per_task, arguments.repeats)


if __name__ == "__main__":
    main()
