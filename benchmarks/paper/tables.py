"""The paper's tables and figures made from the cells: `summary.json`, `tables.md` and PNGs under `results/paper`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.paper.cells import GROUPS, HEADLINES, LARGE, NUM_SEEDS, SATURATED_SELECTORS, Cell
from benchmarks.paper.goals import goal_rows
from benchmarks.paper.reference import COST, LENGTHS, RATIOS, SELECTION
from benchmarks.paper.saturated import saturated_rows
from benchmarks.paper.stopping import stopping_rows
from benchmarks.workloads import RESULTS

OUT = RESULTS / "paper"
IN_PAPER = ("math", "code", "medical")
Result = dict[str, Any]
NAMES = {
    "training-free-none": "Training-free",
    "full_ft-original": "Full-FT, original data",
    "lora-original": "LoRA, original data",
    "retrain-original": "Retrain, original data",
    "eda-original": "EDA, original data",
    "full_ft-selfgen": "Full-FT, self-generated",
    "lora-selfgen": "LoRA, self-generated",
    "retrain-selfgen": "Retrain, self-generated",
    "eda-selfgen": "EDA, self-generated, 50 % (the paper's)",
    "best-selfgen": "EDA, `best` recipe",
}
PAIRS = {
    "eda_selfgen_over_fullft_original": ("eda-selfgen", "full_ft-original"),
    "eda_selfgen_over_fullft_selfgen": ("eda-selfgen", "full_ft-selfgen"),
    "best_over_eda_selfgen": ("best-selfgen", "eda-selfgen"),
    "best_over_fullft_original": ("best-selfgen", "full_ft-original"),
    "best_over_fullft_selfgen": ("best-selfgen", "full_ft-selfgen"),
    "eda_selfgen_over_training_free": ("eda-selfgen", "training-free-none"),
    "best_over_training_free": ("best-selfgen", "training-free-none"),
    "eda_original_over_fullft_original": ("eda-original", "full_ft-original"),
}
SELECTION_PAIRS = {
    "pca50_over_all": ("eda-selfgen", "eda_all-selfgen"),
    "pca50_over_random50": ("eda-selfgen", "eda_random_50-selfgen"),
    "pca50_over_reversed50": ("eda-selfgen", "eda_reversed_50-selfgen"),
}
"""Ratios of the summary: numerator and denominator, by method and data."""
FIGURES = {
    "figure-1.png": "Acceptance by method and domain",
    "figure-3.png": "Acceptance by budget and selector",
    "figure-4.png": "One answer, what the target corrected in red",
}


def results(out: Path = OUT) -> dict[str, Result]:
    """Read the finished cells by name."""
    paths = sorted(out.glob("*-s*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def domains_in(found: dict[str, Result]) -> list[str]:
    """List the paper's domains in its order, then others that have cells."""
    return list(dict.fromkeys([*IN_PAPER, *(result["cell"]["domain"] for result in found.values())]))


def task_length(result: Result, task: str, temperature: float, mode: str) -> float | None:
    """Return a task's acceptance length, if it was measured."""
    found = result["tasks"][task].get(f"T{temperature:g}", {}).get(mode)
    return None if found is None else float(found["acceptance_length"])


def mean_length(result: Result, temperature: float = 0.0, mode: str = "tree") -> float | None:
    """Compute the mean over the tasks."""
    lengths = [task_length(result, task, temperature, mode) for task in result["tasks"]]
    return None if not lengths or None in lengths else fmean(length for length in lengths if length is not None)


def ratio(found: dict[str, Result], domain: str, above: str, below: str, seed: int = 0) -> float | None:
    """Divide two cells' headline numbers, by method and data; None if one is missing. A cell without training has one
    seed.

    Raises:
        ValueError: The cells were measured on different tasks.
    """
    other = 0 if below == "training-free-none" else seed
    over, under = found.get(f"{domain}-{above}-s{seed}"), found.get(f"{domain}-{below}-s{other}")
    if over is None or under is None:
        return None
    if set(over["tasks"]) != set(under["tasks"]):
        raise ValueError(
            f"{domain}, seed {seed}: {above} was measured on {', '.join(over['tasks'])}, {below} on "
            f"{', '.join(under['tasks'])}; run the one with fewer again with --measure-again"
        )
    return round(over["acceptance_length"] / under["acceptance_length"], 4)


def summary(found: dict[str, Result]) -> dict[str, Any]:
    """Compute the ratios of the goals, under plain names: the first seed's, None if a cell is missing, and under
    `.seeds` those of every seed whose cells exist.
    """
    made: dict[str, Any] = {}
    for domain in domains_in(found):
        for name, (above, below) in (PAIRS | (SELECTION_PAIRS if domain == "math" else {})).items():
            ratios = [ratio(found, domain, above, below, seed) for seed in range(NUM_SEEDS)]
            made[f"{domain}.{name}"] = ratios[0]
            made[f"{domain}.{name}.seeds"] = [each for each in ratios if each is not None]
        for key in HEADLINES:
            names = [f"{domain}-{key}-s{seed}" for seed in range(NUM_SEEDS)]
            made[f"{domain}.{key}.seeds"] = [found[name]["acceptance_length"] for name in names if name in found]
        for key, timed in speedups(found, domain).items():
            made[f"{domain}.{key}.speedup"] = timed.get("T0", {}).get("median")
        made |= cost(found, domain)
    return made


def cost(found: dict[str, Result], domain: str) -> dict[str, Any]:
    """Compare EDA's training with retraining from random weights on the same self-generated set: share of trained
    weights, time of the whole training, and time until EDA's simulated acceptance reaches the best of retraining.
    """
    eda, retrained = (found.get(f"{domain}-{key}-selfgen-s0") for key in ("eda", "retrain"))
    if eda is None or retrained is None:
        return {}
    wanted = retrained["trained"]["best_simulated_acceptance_length"]
    whole = retrained["trained"]["seconds"]
    until = next((seconds for seconds, length in eda["trained"]["curve"] if length >= wanted), None)
    return {
        f"{domain}.trainable_fraction": eda["trained"]["trainable_fraction"],
        f"{domain}.train_seconds_eda_over_retrain": round(eda["trained"]["seconds"] / whole, 4),
        f"{domain}.seconds_to_retrained_acceptance_over_retrain": None if until is None else round(until / whole, 4),
        f"{domain}.eda_over_retrained_acceptance": ratio(found, domain, "eda-selfgen", "retrain-selfgen"),
    }


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Write a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def shown(value: float | None) -> str:
    """Format a number with two digits, or as a dash."""
    return "-" if value is None else f"{value:.2f}"


def goal_table(found: dict[str, Result]) -> list[str]:
    """Write the project's goals, in its own domains."""
    if not any(result["cell"]["domain"] in IN_PAPER for result in found.values()):
        return []
    head = ["ratio in `summary.json`", "goal", "measured", "", "over the seeds"]
    title = "### Goals (acceptance_length, tree 60/5/10, T=0, means over a domain's tasks)"
    return [title, "", *table(head, goal_rows(summary(found)))]


def main_tables(found: dict[str, Result]) -> list[str]:
    """Write Tables 1 to 3: every task, method and temperature of a domain."""
    lines: list[str] = []
    for number, domain in enumerate(domains_in(found), start=1):
        cells = {key: found[name] for key in NAMES if (name := f"{domain}-{key}-s0") in found}
        if not cells:
            continue
        tasks = list(next(iter(cells.values()))["tasks"])
        for temperature in (0.0, 1.0):
            published = LENGTHS.get((domain, temperature), {})
            table_of_paper = f"Table {number}: " if domain in IN_PAPER else ""
            lines += [f"### {table_of_paper}{domain}, T={temperature:g}, tree 60/5/10 (acceptance length)", ""]
            rows = []
            for key, result in cells.items():
                row = [task_length(result, task, temperature, "tree") for task in tasks]
                mean, chain = mean_length(result, temperature), mean_length(result, temperature, "chain")
                paper = published.get("training-free" if key == "training-free-none" else key)
                rows.append([NAMES[key], *map(shown, row), shown(mean), shown(chain), shown(paper)])
            lines += table(["method", *tasks, "mean", "chain of 5", "paper, 7B"], rows)
    return lines


def speedups(found: dict[str, Result], domain: str) -> dict[str, Result]:
    """Return the results of `make bench NAME=paper-timed` by method and data, of the seed that was timed."""
    seeds = {key: [found.get(f"{domain}-{key}-s{seed}", {}) for seed in range(NUM_SEEDS)] for key in NAMES}
    timed = {key: next((r["speedup"] for r in results if r.get("speedup")), None) for key, results in seeds.items()}
    return {key: speedup for key, speedup in timed.items() if speedup is not None}


def speed_table(found: dict[str, Result]) -> list[str]:
    """Write the table of decoding with each draft and without one."""
    timed_domains = {domain: timed for domain in domains_in(found) if (timed := speedups(found, domain))}
    columns = {(domain, temperature): timed for domain, timed in timed_domains.items() for temperature in (0, 1)}
    keys = [key for key in NAMES if any(key in timed for timed in columns.values())]
    rows = []
    for key in keys:
        row = [NAMES[key]]
        for (_, temperature), timed in columns.items():
            spread = timed.get(key, {}).get(f"T{temperature}")
            row.append("-" if spread is None else "{median:.2f} ({min:.2f} to {max:.2f})".format(**spread))
        rows.append(row)
    command = "`make bench NAME=paper-timed`"
    title = f"### Speed: tokens a second over decoding without a draft, one request at a time ({command})"
    head = ["method", *(f"{domain}, T={temperature}" for domain, temperature in columns)]
    return [title, "", *table(head, rows)] if rows else []


def cost_table(found: dict[str, Result]) -> list[str]:
    """Write Table 4."""
    rows = []
    for method in ("retrain", "eda"):
        result = found.get(f"math-{method}-selfgen-s0")
        if result is not None:
            trained, paper = result["trained"], COST[method]
            rows.append(
                [
                    method,
                    f"{trained['num_trainable'] / 1e6:.2f}M ({trained['trainable_fraction']:.1%})",
                    f"{trained['seconds'] / 60:.1f} min",
                    shown(result["acceptance_length"]),
                    f"{paper[0]:.0f}M, {paper[1]} h, {paper[2]}",
                ]
            )
    head = ["method", "trainable", "training time", "acceptance length", "paper, 7B"]
    return ["### Table 4: overhead, math", "", *table(head, rows)] if rows else []


def hours_table(found: dict[str, Result]) -> list[str]:
    """Write the time of the cells on one core each: self-generation by the first cell that needs it, training,
    measuring.
    """
    rows = []
    for group, cells in (GROUPS | LARGE).items():
        names = [cell.name for domain in domains_in(found) for cell in cells(domain) if cell.name in found]
        if names:
            seconds = sum(found[name]["seconds"]["all"] for name in names)
            rows.append([group, str(len(names)), f"{seconds / 3600:.1f}"])
    return ["### Time, one core a cell", "", *table(["group", "cells", "core hours"], rows)] if rows else []


def ablation_table(found: dict[str, Result], group: str, title: str) -> list[str]:
    """Write one line per cell of a group, compared with the paper's recipe or the first candidate for `best`."""
    cells: list[Cell] = list(GROUPS[group]("math"))
    base, candidate = found.get("math-eda-selfgen-s0"), found.get("math-candidate-selfgen-s0")
    if base is None:
        return []
    rows = []
    for cell in cells:
        result = found.get(cell.name)
        if result is not None:
            length, against = result["acceptance_length"], candidate if cell.method.startswith("candidate") else base
            over = None if against is None else length / against["acceptance_length"]
            trained = result["trained"]
            selected, trainable = result["selected"]["num_samples"], trained["num_trainable"] / 1e6
            counts = str(selected), f"{trainable:.2f}M", str(trained["num_steps"])
            rows.append([cell.method, cell.data, *counts, f"{length:.3f}", "-" if over is None else f"{over:.3f}"])
    rows.sort(key=lambda row: -float(row[5]))
    head = ["variant", "data", "samples", "trained", "steps", "acceptance length", "over EDA, or over the candidate"]
    return [f"### {title}", "", *table(head, rows)] if rows else []


SECOND_PAPER = {
    "white-box, offline: distributions, half of the samples four times": "eda-selfgen",
    "black-box: sampled tokens only, else the same": "eda_black_box-selfgen",
    "online: each of all samples once, as it comes": "eda_online-selfgen",
    "prompts of users (the domain's training set)": "candidate-selfgen",
    "curated prompts (another set of the domain)": "candidate-curated",
    "synthetic prompts (Magpie, from the tuned target)": "candidate-magpie",
}
"""Cells by the comparison of the paper on domain drafts (arXiv 2503.07807): the first three, the last three."""


SAMPLED = ("eda", "eda_ce_weighted_sampled", "eda_lk_sampled", "best", "best_lk_sampled")
"""Cells that the loss on the acceptance rate is compared with, at the temperature that it is made for."""


def sampled_table(found: dict[str, Result]) -> list[str]:
    """The LK loss at T=1, once one of its cells is there."""
    cells = {method: found[name] for method in SAMPLED if (name := f"math-{method}-selfgen-s0") in found}
    if not any(method.endswith("_sampled") for method in cells):
        return []
    kinds = ((0.0, "tree"), (0.0, "chain"), (1.0, "tree"), (1.0, "chain"))
    rows = [[method, *(shown(mean_length(result, *kind)) for kind in kinds)] for method, result in cells.items()]
    head = ["variant", "trees, T=0", "chains of 5, T=0", "trees, T=1", "chains of 5, T=1"]
    return ["### The LK loss at T=1 (math, acceptance length)", "", *table(head, rows)]


def saturated_table(found: dict[str, Result]) -> list[str]:
    """Selectors over budgets of 12,800 samples."""
    rows = saturated_rows(found)
    head = ["kept", "samples", *SATURATED_SELECTORS]
    return ["### Selectors over 12,800 samples (math, acceptance length)", "", *table(head, rows)] if rows else []


def second_paper_table(found: dict[str, Result]) -> list[str]:
    """Write the table of distillation and data sources."""
    rows = []
    for words, key in SECOND_PAPER.items():
        result = found.get(f"math-{key}-s0")
        if result is not None:
            steps = str(result["trained"]["num_steps"])
            rows.append([words, key.rpartition("-")[0], steps, f"{result['acceptance_length']:.3f}"])
    head = ["what is learnt", "variant", "steps", "acceptance length"]
    title = "### Domain drafts (the second paper): distillation and sources, math"
    return [title, "", *table(head, rows)] if rows else []


def stopping_table(found: dict[str, Result]) -> list[str]:
    """Write the table of early stopping, by patience."""
    head = ["patience, epochs", "cells that end early", "epochs spared", "acceptance lost, mean of these", "most"]
    title = "### `train.early_stopping_patience`, read from every cell's curve of simulated acceptance"
    rows = stopping_rows(found.values())
    return [title, "", *table(head, rows)] if rows else []


def figure_1(found: dict[str, Result], path: Path) -> None:
    """Draw bars: training-free, Full-FT on original data, EDA, best; by domain."""
    from matplotlib.figure import Figure

    keys = ("training-free-none", "full_ft-original", "eda-selfgen", "best-selfgen")
    domains = [domain for domain in domains_in(found) if any(f"{domain}-{key}-s0" in found for key in keys)]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    for i, key in enumerate(keys):
        heights = [found.get(f"{domain}-{key}-s0", {}).get("acceptance_length", 0.0) for domain in domains]
        axes.bar([place + 0.2 * i for place in range(len(domains))], heights, width=0.19, label=NAMES[key])
    axes.set_xticks([place + 0.3 for place in range(len(domains))], domains)
    axes.set(ylabel="acceptance_length (tree 60/5/10, T=0)", ylim=(1, None))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def figure_3(found: dict[str, Result], path: Path) -> None:
    """Draw acceptance over the budget, by selector."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    for method in ("pca", "random", "reversed"):
        names = {share: f"math-eda_{method}_{share}-selfgen-s0" for share in (25, 50, 75)}
        names |= {50: "math-eda-selfgen-s0"} if method == "pca" else {}
        names[100] = "math-eda_all-selfgen-s0"
        points = [(share, found[name]["acceptance_length"]) for share, name in sorted(names.items()) if name in found]
        axes.plot([share for share, _ in points], [length for _, length in points], marker="o", label=method)
    axes.set(xlabel="samples kept, %", ylabel="acceptance_length (tree 60/5/10, T=0)")
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Write everything that the finished cells allow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    out = parser.parse_args().out
    found = results(out)
    (out / "summary.json").write_text(json.dumps(summary(found), indent=1) + "\n", encoding="utf-8")
    paper = ", ".join(f"{name} {value}" for name, value in SELECTION.items())
    ratios = ", ".join(f"{name} {value}" for name, value in RATIOS.items())
    lines = [
        "# The paper's tables",
        "",
        f"Rebuilt by `make bench NAME=paper` from {len(found)} cells. The paper's targets have 7B parameters, the "
        "shipped",
        f"ones 135M, and other data: ratios are compared. Its EDA over Full-FT on original data, T=0: {ratios}.",
        "",
        *goal_table(found),
        *main_tables(found),
        *speed_table(found),
        *cost_table(found),
        *ablation_table(found, "selection", f"Figure 3: selection (the paper, on GSM8K: {paper})"),
        *saturated_table(found),
        *ablation_table(found, "beyond", "Beyond the paper"),
        *sampled_table(found),
        *second_paper_table(found),
        *stopping_table(found),
        *hours_table(found),
    ]
    figure_1(found, out / "figure-1.png")
    if "math-eda_all-selfgen-s0" in found:
        figure_3(found, out / "figure-3.png")
    lines += [f"![{words}]({name})" for name, words in FIGURES.items() if (out / name).exists()]
    (out / "tables.md").write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
