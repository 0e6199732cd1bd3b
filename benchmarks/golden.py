"""The check that the same seed still gives the same pack, to the bit: `make proof NAME=golden`.

A tiny random target (tests/tiny_models.py) goes through all stages on a private Ray, once with each method over a draft
of EAGLE-1 and of EAGLE-3, with one training worker and one thread, so that nothing is summed in another order. The
sha256 of every tensor of the packs and of the compact sets, and every acceptance length with all its digits, are
compared with `benchmarks/results/golden.json`, which the version before the last move of code wrote.

    python -m benchmarks.golden            # compare; exit code 1 where something differs
    python -m benchmarks.golden --write    # after a change that means to alter results
    python -m benchmarks.golden --keep DIR # and keep the home in DIR

Floating point differs between processors and builds of torch: the file says where it was written. On another machine
compare two runs: first one of `git stash` or of another checkout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from eda_service.config.job import TargetSpec
from eda_service.targets.loader import load_target

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "golden.json"
METHODS: dict[str, dict[str, Any]] = {
    "eda": {},
    "full_ft": {},
    "lora": {},
    "eagle3": {},
    "eagle3_fc": {"train_fc": True, "train_attention": True},
    "eagle3_full_ft": {"method": "full_ft"},
    "eagle3_lora": {"method": "lora"},
    "eagle3_extended": {"extend_draft_vocab": 5},
}
"""Settings of `train`, by a name that is the method for drafts of EAGLE-1."""
BASES = {"eagle3_extended": "tiny-wide@1"}
"""Base drafts of other methods: only the head of a draft with the target's width can be extended."""
CONFIG: dict[str, Any] = {
    "selfgen": {"max_new_tokens": 24, "batch_size": 8, "shard_size": 8, "threads_per_actor": 1},
    "selection": {"num_reference_prompts": 8, "reference_max_new_tokens": 16, "pca_dim": 8},
    "train": {"epochs": 8, "batch_size": 4, "num_workers": 1, "threads_per_worker": 1, "learning_rate": 2e-3},
    "evaluation": {"num_prompts": 6, "max_new_tokens": 16, "num_timed_prompts": 0, "threads": 1},
    "deploy": {"min_gain": 0, "min_speed_gain": 0},
}


def make_inputs(directory: Path, home: Path) -> Path:
    """Make a target, its base draft `tiny@1` in the home, and prompts; return the target's directory."""
    from tests.tiny_models import fit_draft, random_eagle3, register_draft, write_target

    torch.set_num_threads(1)
    target_dir = write_target(directory / "target", "llama")
    target = load_target(TargetSpec(model=str(target_dir), dtype="float32"))
    register_draft(home, fit_draft(target, steps=60), target)
    vocab_W = torch.arange(3, 93)
    eagle3 = fit_draft(target, steps=60, draft=random_eagle3(target), vocab_W=vocab_W)
    register_draft(home, eagle3, target, name="tiny-eagle3", vocab_W=vocab_W)
    as_wide = random_eagle3(target, hidden_size=32, own_embedding=False)
    register_draft(
        home, fit_draft(target, steps=60, draft=as_wide, vocab_W=vocab_W), target, name="tiny-wide", vocab_W=vocab_W
    )
    rows = (json.dumps({"prompt": f"the user and the other assistant number {n}"}) for n in range(38))
    (directory / "prompts.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return target_dir


def tensors_sha256(path: Path) -> str:
    """Hash the names, types and bytes of every tensor of a safetensors file; its metadata has times. Texts of answers
    are left out: they follow from the token ids, and shards of earlier versions do not have them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        if name in ("answers", "answer_offsets"):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def run_job(directory: Path, home: Path, target_dir: Path, method: str) -> dict[str, Any]:
    """Run one adaptation with one method in a process of its own; return the results that must not change."""
    config = {
        **CONFIG,
        "target": {"model": str(target_dir), "dtype": "float32"},
        "base_draft": BASES.get(method, "tiny-eagle3@1" if method.startswith("eagle3") else "tiny@1"),
        "served_name": f"golden-{method.replace('_', '-')}",
        "dataset": {"source": str(directory / "prompts.jsonl"), "num_prompts": 38},
        "train": {**CONFIG["train"], **({} if method.startswith("eagle3") else {"method": method}), **METHODS[method]},
    }
    path = directory / f"{method}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    job_id = job_id_of(method)
    subprocess.run(
        [sys.executable, "-m", "jobs.adapt", "--job-id", job_id, "--config", str(path)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "EDA_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    return results_of(home, method)


def job_id_of(method: str) -> str:
    """Return the id of a method's job."""
    return f"adapt_golden_{method}"


def results_of(home: Path, method: str) -> dict[str, Any]:
    """Read the results of a method's job that must not change."""
    run = home / "runs" / job_id_of(method)
    report = json.loads((run / "evaluate" / "record.json").read_text(encoding="utf-8"))
    pack = home / "packs" / f"golden-{method.replace('_', '-')}" / "1" / "pack.safetensors"
    return {
        "pack_sha256": tensors_sha256(pack),
        "compact_sha256": [tensors_sha256(path) for path in sorted((run / "select").glob("*.safetensors"))],
        "acceptance": [
            [row["draft"], row["temperature"], repr(row["acceptance_length"])] for row in report["acceptance"]
        ],
    }


def measure(home: Path | None) -> dict[str, Any]:
    """Collect every method's results, and the machine that made them."""
    with tempfile.TemporaryDirectory(prefix="eda-golden-") as name:
        directory = Path(name)
        here = directory / "home"
        here.mkdir()
        target_dir = make_inputs(directory, here)
        results = {method: run_job(directory, here, target_dir, method) for method in METHODS}
        if home is not None:
            shutil.copytree(directory, home, dirs_exist_ok=True)
    return {"made_on": {"machine": platform.machine(), "torch": torch.__version__}, "methods": results}


def main() -> int:
    """Compare with the stored results, or store new ones."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="keep the results instead of comparing them")
    parser.add_argument("--keep", type=Path, help="leave target, prompts and home in this directory")
    arguments = parser.parse_args()
    results = measure(arguments.keep)
    if arguments.write:
        RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        return 0
    kept = json.loads(RESULT.read_text(encoding="utf-8"))
    differing = [method for method in METHODS if kept["methods"].get(method) != results["methods"][method]]
    for method in METHODS:
        sys.stdout.write(f"{method}: {'DIFFERS' if method in differing else 'equal to the bit'}\n")
    if differing:
        sys.stdout.write(json.dumps(results, indent=1) + "\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
