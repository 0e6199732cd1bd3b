"""The share of padding in training batches, of similar length and shuffled: the possible gain of packing.

Lengths are those of the domains' training prompts with the data set's own answers. `make bench NAME=padding` writes
`benchmarks/results/padding.json`.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.workloads import DOMAINS, SHARED_DATA, header, write_result
from eda_service.config.job import DatasetSpec, TargetSpec, TrainConfig
from eda_service.selfgen.prompts import load_prompts
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.loader import Target, load_target
from eda_service.training.batches import epoch_batches

NUM_PROMPTS = 360
BATCH_SIZES = (4, 8, 16, 32)


def lengths_of(target: Target, source: Path, most: int) -> list[int]:
    """Return the tokens of each sample as a trainer cuts it."""
    prompts = load_prompts(DatasetSpec(source=str(source), num_prompts=NUM_PROMPTS), seed=0)
    answers = [target.tokenizer(each.reference, add_special_tokens=False)["input_ids"] for each in prompts]
    asked = [render_prompt(target.tokenizer, each.messages) for each in prompts]
    return [min(most, len(ids) + len(answer) + 1) for ids, answer in zip(asked, answers, strict=True)]


def padded_share(lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> float:
    """Return positions of padding divided by all positions."""
    made = [[lengths[i] for i in batch] for batch in batches]
    positions = sum(len(batch) * max(batch) for batch in made)
    return 1.0 - sum(map(sum, made)) / positions


def shuffled(count: int, batch_size: int) -> list[list[int]]:
    """Make batches in the order of the samples."""
    order = random.Random(0).sample(range(count), count)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def main() -> None:
    """Measure every domain and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with train/")
    data = parser.parse_args().data
    most = TrainConfig().max_tokens
    rows = []
    for domain in DOMAINS:
        lengths = lengths_of(load_target(TargetSpec(model=domain.target)), data / domain.train, most)
        for size in BATCH_SIZES:
            rows.append(
                {
                    "domain": domain.name,
                    "batch_size": size,
                    "mean_tokens": round(sum(lengths) / len(lengths), 1),
                    "longest": max(lengths),
                    "padding": round(padded_share(lengths, epoch_batches(lengths, size, seed=0, epoch=0)), 4),
                    "padding_shuffled": round(padded_share(lengths, shuffled(len(lengths), size)), 4),
                }
            )
    write_result("padding.json", {**header("make bench NAME=padding"), "max_tokens": most, "rows": rows})


if __name__ == "__main__":
    main()
