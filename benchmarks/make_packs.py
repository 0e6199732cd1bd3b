"""Adapt the packs of the decode benchmarks: `make bench NAME=packs` runs `jobs.adapt` per domain into `packs/`.

The whole pipeline runs in a private home under `out/bench-packs`; an interrupted run is resumed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.workloads import DOMAINS, PACKS_BASE_DRAFT, PARTS, ROOT, SHARED_DATA, Domain, split_rows

SETTINGS = {
    "selfgen.temperature": 0.7,
    "selfgen.extra_temperatures": "[0.0]",
    "selfgen.max_new_tokens": 128,
    "selfgen.batch_size": 48,
    "selfgen.shard_size": 96,
    "selection.keep_fraction": 0.5,
    "selection.num_reference_prompts": 48,
    "train.train_fc": "true",
    "train.epochs": 8,
    "train.batch_size": 8,
    "train.learning_rate": 1.5e-3,
    "train.draft_vocab_size": 4096,
    "train.loss.unroll_steps": 3,
    "train.loss.regression_weight": 0.2,
    "train.loss.cross_entropy_weight": 1.0,
    "evaluation.num_prompts": 16,
    "evaluation.num_timed_prompts": 0,
}
# MBPP has few prompts, so all samples are used, with more passes.
DOMAIN_SETTINGS: dict[str, dict[str, object]] = {"code": {"selection.keep_fraction": 1.0, "train.epochs": 12}}


def adapt(domain: Domain, data: Path, num_prompts: int, workers: int) -> None:
    """Run one adaptation; its pack replaces the committed one."""
    home = ROOT / "out" / "bench-packs"
    job = f"pack-{domain.name}"
    settings = {
        **SETTINGS,
        "selfgen.num_actors": workers,
        "selfgen.threads_per_actor": 1,
        "train.num_workers": workers,
        "base_draft": PACKS_BASE_DRAFT,
        **DOMAIN_SETTINGS.get(domain.name, {}),
    }
    part = PARTS / f"{domain.name}-train.jsonl"
    prompts = split_rows(data / domain.train, domain.num_held_back, part, held_back=False)
    command = [sys.executable, "-m", "jobs.adapt", "--job-id", job, "--target", domain.target]
    command += ["--data", str(prompts), "--num-prompts", str(num_prompts)]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "EDA_HOME": str(home)})
    made = home / "runs" / job / "train" / "pack"
    shutil.rmtree(domain.pack_dir, ignore_errors=True)
    shutil.copytree(made, domain.pack_dir)
    for name in ("train", "evaluate"):
        shutil.copy(home / "runs" / job / name / "record.json", domain.pack_dir / f"{name}.json")


def main() -> None:
    """Adapt every domain asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with train/<domain>/*.jsonl")
    parser.add_argument("--num-prompts", type=int, default=1600)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--domains", default=",".join(domain.name for domain in DOMAINS))
    arguments = parser.parse_args()
    for domain in DOMAINS:
        if domain.name in arguments.domains.split(","):
            adapt(domain, arguments.data, arguments.num_prompts, arguments.workers)


if __name__ == "__main__":
    main()
