"""An imported EAGLE-3 draft in the paper's form: `make bench NAME=eagle3` writes `results/eagle3`.

The cells of `brought` with the base draft `smollm2-135m-eagle3@1` are measured by `benchmarks.paper.run`, and compared
with EAGLE-1's cells of the paper's grid (`results/paper`), on the same prompts and tasks. `summary.json` has, for each
domain, the ratios of the goals: `best` over LoRA with as many weights and over full fine-tuning, over EAGLE-1's `best`,
and the recovery: the acceptance length of `best` on the tuned target over that of the imported draft on its own base
target, same tasks.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.paper.cells import NUM_SEEDS
from benchmarks.paper.domains import SHIPPED, PaperDomain
from benchmarks.paper.run import HOME, TREE, counted, replayed
from benchmarks.paper.tables import ratio, results
from benchmarks.paper.tasks import transcripts_of
from benchmarks.workloads import RESULTS, SHARED_DATA, header
from eda_service.config.job import TargetSpec
from eda_service.decoding.build import load_drafts
from eda_service.storage.published.registry import find_draft
from eda_service.targets.loader import load_target

OUT = RESULTS / "eagle3"
DRAFT, BASE_TARGET = "smollm2-135m-eagle3@1", "smollm2-135m-instruct"
ROWS = {
    "training-free-none": "imported, as it is",
    "eda-selfgen": "EDA, 50 % (the paper's, one step)",
    "eda_unrolled-selfgen": "EDA, 50 %, three unrolled steps",
    "lora-selfgen": "LoRA, as many weights as EDA",
    "full_ft-selfgen": "full fine-tuning",
    "best-selfgen": "EDA, `best`",
    "best_extended-selfgen": "EDA, `best`, 1,024 rows added to the head",
    "lora_best-selfgen": "LoRA, as many weights and the loss of `best`",
    "full_ft_best-selfgen": "full fine-tuning, the loss of `best`",
}
PAIRS = {
    "best_over_lora_equal_bytes": "lora_best-selfgen",
    "best_over_full_ft": "full_ft-selfgen",
    "best_over_full_ft_best": "full_ft_best-selfgen",
    "best_over_imported": "training-free-none",
    "best_over_eda": "eda-selfgen",
    "best_over_eda_unrolled": "eda_unrolled-selfgen",
}
GOALS = {"best_over_lora_equal_bytes": 1.0, "best_over_full_ft": 1.0, "recovered": 0.95, "eagle3_over_eagle1": 1.1}


@torch.inference_mode()
def on_its_base(domain: PaperDomain, data: Path, path: Path) -> float:
    """Return the acceptance length of the imported draft on its own base target, over a domain's tasks;
    measured once.
    """
    known: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if domain.name not in known:
        target = load_target(TargetSpec(model=BASE_TARGET))
        loaded = load_drafts(find_draft(DRAFT), None, target=target)
        captures = loaded.draft.config.captures
        texts = transcripts_of(
            target, domain.name, domain.tasks, data, HOME / "transcripts", sampled=False, captures=captures
        )
        lengths = [
            counted(replayed(target, loaded, each, TREE, 0.0), 0.0, TREE.depth)["acceptance_length"]
            for each in texts.values()
        ]
        known[domain.name] = round(fmean(lengths), 4)
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return known[domain.name]


def summary(found: dict[str, Any], eagle1: dict[str, Any], bases: dict[str, float]) -> dict[str, Any]:
    """Compute ratios by domain; with several seeds, of the first, and all of them under `.seeds`.

    Args:
        found: Cells of EAGLE-3 by name.
        eagle1: Cells of the paper's grid by name.
        bases: Acceptance length of the imported draft on its own base target, by domain.
    """
    rows: dict[str, Any] = {}
    for domain, base in bases.items():
        best = found.get(f"{domain}-best-selfgen-s0")
        if best is None:
            continue
        rows[f"{domain}.imported_on_base"] = base
        rows[f"{domain}.recovered"] = round(best["acceptance_length"] / base, 4)
        other = eagle1.get(f"{domain}-best-selfgen-s0")
        if other is not None:
            rows[f"{domain}.eagle3_over_eagle1"] = round(best["acceptance_length"] / other["acceptance_length"], 4)
        for name, below in PAIRS.items():
            ratios = [ratio(found, domain, "best-selfgen", below, seed) for seed in range(NUM_SEEDS)]
            if ratios[0] is not None:
                rows[f"{domain}.{name}"] = ratios[0]
                rows[f"{domain}.{name}.seeds"] = [each for each in ratios if each is not None]
    return rows


def table(found: dict[str, Any], eagle1: dict[str, Any], rows: dict[str, Any]) -> str:
    """Make the table of acceptance lengths by method and domain, EAGLE-1 beside EAGLE-3, and the goals."""
    domains = [each.name for each in SHIPPED if f"{each.name}-training-free-none-s0" in found]
    head = "".join(f" {name}, EAGLE-3 | {name}, EAGLE-1 |" for name in domains)
    lines = [f"| trees of 60 at T=0 |{head}", "|---|" + "---|" * (2 * len(domains))]
    for cell, words in ROWS.items():
        values = [_length(cells, f"{domain}-{cell}-s0") for domain in domains for cells in (found, eagle1)]
        lines.append(f"| {words} |" + "".join(f" {value} |" for value in values))
    lines += ["", "| goal | at least | measured | |", "|---|---|---|---|"]
    for domain in domains:
        for name, least in GOALS.items():
            value = rows.get(f"{domain}.{name}")
            said = "-" if value is None else "met" if value >= least else "missed"
            lines.append(f"| `{domain}.{name}` | {least:g} | {value or '-'} | {said} |")
    return "\n".join(lines) + "\n"


def _length(found: dict[str, Any], name: str) -> str:
    return f"{found[name]['acceptance_length']:.3f}" if name in found else "-"


def main() -> None:
    """Write summary and table of the existing cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with eval/")
    arguments = parser.parse_args()
    found, eagle1 = results(OUT), results()
    bases = {
        domain.name: on_its_base(domain, arguments.data, OUT / "on-base.json")
        for domain in SHIPPED
        if f"{domain.name}-best-selfgen-s0" in found
    }
    rows = summary(found, eagle1, bases)
    result = {**header("make bench NAME=eagle3"), "base_draft": DRAFT, **rows}
    (OUT / "summary.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (OUT / "tables.md").write_text(table(found, eagle1, rows), encoding="utf-8")
    sys.stdout.write(table(found, eagle1, rows))


if __name__ == "__main__":
    main()
