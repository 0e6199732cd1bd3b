"""Wall-clock times of the headline cells, on an otherwise idle machine: `make bench NAME=paper-timed` fills in
`speedup`.

All drafts of a domain, and no draft, run in turns over the same prompts, one at a time, as an endpoint decodes (chains
with adaptive depth); results are medians of the repeats. A method is timed with the pack of its first seed that is on
this machine: packs stay where their cells ran, only results are committed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.cells import NUM_SEEDS
from benchmarks.paper.domains import PaperDomain, domains_of
from benchmarks.paper.run import CHAIN, HOME, OUT, is_whole, pack_of
from benchmarks.paper.tasks import MAX_NEW_TOKENS, MAX_PROMPT_TOKENS, transcripts_of
from benchmarks.workloads import SHARED_DATA, when_and_where
from eda_service.decoding.build import load_drafts, make_engine
from eda_service.decoding.request import SamplingParams
from eda_service.evaluation.speed import BASELINE, measure_speed
from eda_service.measured_rows import SpeedRow
from eda_service.storage.published.registry import find_draft
from eda_service.targets.loader import load_target

TIMED = ("training-free-none", "full_ft-original", "lora-original", "eda-original", "eda-selfgen", "best-selfgen")


@dataclass(frozen=True)
class Timed:
    """A cell whose draft can be timed here.

    Attributes:
        path: Path of its result.
        pack: Directory of its pack; None for the base draft alone.
    """

    path: Path
    pack: Path | None

    @cached_property
    def result(self) -> dict[str, Any]:
        """The file's content."""
        found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return found

    def add(self, temperature: float, row: SpeedRow, repeats: int) -> None:
        """Write a measurement into the file, with its machine and time."""
        speedup = (row.speedup_over_autoregressive, row.speedup_min, row.speedup_max)
        found = {key: round(value, 3) for key, value in zip(("median", "min", "max"), speedup, strict=True)}
        made = self.result["speedup"] or {}
        self.result["speedup"] = {**made, **when_and_where(), "repeats": repeats, f"T{temperature:g}": found}
        self.path.write_text(json.dumps(self.result, indent=1) + "\n", encoding="utf-8")
        sys.stderr.write(f"{self.path.stem} T={temperature:g}: {found}\n")


def timed_cells(domain: str, out: Path, home: Path = HOME) -> dict[str, Timed]:
    """Return the cells to time by method and data: of each the first seed that has a result and its pack here."""
    found: dict[str, Timed] = {}
    for key in TIMED:
        for seed in range(NUM_SEEDS):
            path = out / f"{domain}-{key}-s{seed}.json"
            trains = not key.startswith("training-free")
            pack = pack_of(path.stem, home) if trains else None
            if path.exists() and (pack is None or is_whole(pack)):
                found[key] = Timed(path, pack)
                break
        else:
            sys.stderr.write(f"{domain}-{key}: no pack on this machine, not timed; run one of its cells here\n")
    return found


def time_domain(domain: PaperDomain, data: Path, out: Path, prompts_per_task: int, repeats: int) -> None:
    """Measure and write a domain's cells."""
    name = domain.name
    cells = timed_cells(name, out)
    target = load_target(domain.target)
    engines = {BASELINE: make_engine(target, None, num_draft_tokens=1, max_batch=1, max_tokens=MAX_PROMPT_TOKENS + 256)}
    for key, cell in cells.items():
        engines[key] = make_engine(
            target,
            load_drafts(find_draft(cell.result["base_draft"]), cell.pack, target=target),
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
        params = SamplingParams(temperature=temperature, max_new_tokens=MAX_NEW_TOKENS)
        rows = measure_speed(engines, prompts, params=params, num_repeats=repeats)
        for row in rows:
            if row.mode in cells:
                cells[row.mode].add(temperature, row, repeats)


def main() -> None:
    """Time the domains one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA)
    parser.add_argument("--domains", help="shipped ones, separated by commas; default: all")
    parser.add_argument("--domain", type=Path, action="append", default=[], help="JSON file of a domain of your own")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    parser.add_argument("--prompts-per-task", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for domain in domains_of(arguments.domains, arguments.domain):
        time_domain(domain, arguments.data, arguments.out, arguments.prompts_per_task, arguments.repeats)


if __name__ == "__main__":
    main()
