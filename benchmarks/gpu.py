"""A whole adaptation and decoding on a GPU: `make bench NAME=gpu` writes `benchmarks/results/gpu.json`.

It adapts the math target there with the grid's recipe of `best` (`train.use_gpu`: DeepSpeed over NCCL, generation and
evaluation on the same GPU), then decodes held-out prompts, one by one and as a batch, without a draft, with the base
draft and with the adapted one, beside transformers' `generate`. Prompts come from a generator of the project, so that
only the target needs to be downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.decode import Measured, as_rows, measure, show
from benchmarks.engines import Ours, Transformers
from benchmarks.paper.cells import BEST, METHODS, PAPER
from benchmarks.workloads import BASE_DRAFT, DOMAINS, GENERATED_MATH, ROOT, SHARED_DATA, Pair, header, write_result
from eda_service.config.job import DatasetSpec, TargetSpec, TreeConfig
from eda_service.decoding.build import load_drafts
from eda_service.decoding.policy import Adaptive
from eda_service.records import DraftCheckpoint, EvalReport, SelfGenManifest, Stage
from eda_service.selfgen.prompts import load_prompts
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.run import RunDir
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.loader import load_target

OUT = ROOT / "out" / "gpu"
DOMAIN = DOMAINS[0]
CHAIN = 5
BATCH = 16


def adapt(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the job in a process of its own, as a user would; return the time and the results of each stage."""
    settings = {
        **PAPER,
        **METHODS["eda"],
        **BEST,
        "base_draft": BASE_DRAFT,
        "dataset.num_prompts": arguments.samples,
        "selfgen.temperature": 0.7,
        "selfgen.max_new_tokens": 128,
        "selfgen.batch_size": 128,
        "selfgen.num_actors": 1,
        "train.use_gpu": arguments.device == "cuda",
        "train.epochs": arguments.epochs,
        "evaluation.tree": TreeConfig().model_dump(),
        "evaluation.num_prompts": arguments.heldout,
        "evaluation.batch_size": 32,
        "evaluation.num_timed_prompts": 0,
        "device": arguments.device,
    }
    command = [sys.executable, "-m", "jobs.adapt", "--target", DOMAIN.target, "--data", arguments.source]
    command += [f"--set={path}={json.dumps(value)}" for path, value in settings.items()]
    home = Path(os.environ["EDA_HOME"])
    before = {path.name for path in (home / "runs").glob("*")}
    started = time.monotonic()
    subprocess.run(command, check=True, cwd=ROOT)
    seconds = time.monotonic() - started
    (root,) = (path for path in (home / "runs").iterdir() if path.name not in before)
    return {"root": str(root), "seconds": round(seconds, 1), "settings": settings, **stages_of(RunDir(root))}


def stages_of(run: RunDir) -> dict[str, Any]:
    """Read the numbers of the run's records."""
    generated = run.read_record(SelfGenManifest, Stage.GENERATE)
    trained = run.read_record(DraftCheckpoint, Stage.TRAIN)
    report = run.read_record(EvalReport, Stage.EVALUATE)
    assert generated is not None
    assert trained is not None
    assert report is not None
    return {
        "generated": {
            "num_samples": generated.num_samples,
            "num_answer_tokens": generated.num_answer_tokens,
            "seconds": round(generated.generation_seconds, 1),
            "tokens_per_s": round(generated.num_answer_tokens / generated.generation_seconds, 1),
        },
        "trained": {
            "num_steps": trained.num_steps,
            "seconds": round(trained.training_seconds, 1),
            "steps_per_s": round(trained.num_steps / trained.training_seconds, 2),
            "simulated_acceptance_length": [
                trained.initial_simulated_acceptance_length,
                trained.best_simulated_acceptance_length,
            ],
        },
        "acceptance": [
            {
                "draft": row.draft,
                "temperature": row.temperature,
                "acceptance_length": round(row.acceptance_length, 3),
            }
            for row in report.acceptance
        ],
        "lossless": report.lossless.model_dump(),
    }


def load(root: Path, arguments: argparse.Namespace) -> Pair:
    """Load target and both drafts to the device, and prompts that no training has used."""
    target = load_target(TargetSpec(model=DOMAIN.target), device=torch.device(arguments.device))
    base_dir, pack = find_draft(BASE_DRAFT), root / Stage.TRAIN.value / "pack"
    drafts = {"base": load_drafts(base_dir, None, target=target), "adapted": load_drafts(base_dir, pack, target=target)}
    prompts = load_prompts(DatasetSpec(source=GENERATED_MATH, num_prompts=BATCH), seed=0)[:BATCH]
    return Pair(DOMAIN, target, drafts, [render_prompt(target.tokenizer, prompt.messages) for prompt in prompts])


def engines(pair: Pair, batch: int) -> list[Measured]:
    """Make the engines: autoregressive; each draft as it is served; the adapted one at fixed depth and as a tree."""
    rows = [Measured("eda-service", None, Ours(pair.engine(None, max_batch=batch)))]
    for name in pair.drafts:
        engine = pair.engine(name, max_batch=batch, num_draft_tokens=CHAIN, policy=Adaptive(read_confidence=False))
        rows.append(Measured("eda-service", f"{name}, adaptive chain up to {CHAIN}", Ours(engine)))
    for shape in (3, CHAIN):
        engine = pair.engine("adapted", max_batch=batch, num_draft_tokens=shape)
        rows.append(Measured("eda-service", f"adapted, chain of {shape}", Ours(engine)))
    tree = TreeConfig()
    name = f"adapted, tree {tree.size}/{tree.depth}/{tree.width}"
    rows.append(Measured("eda-service", name, Ours(pair.engine("adapted", max_batch=batch, tree=tree))))
    return rows


def transformers_row(pair: Pair) -> Measured:
    """Make the row of `generate` with SDPA attention on the merged target."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from eda_service.targets.files.resolve import resolve_target

    found = resolve_target(pair.target.spec)
    plain = AutoModelForCausalLM.from_pretrained(found.model_dir, dtype=pair.target.dtype)
    model = PeftModel.from_pretrained(plain, str(found.adapter_dir)).merge_and_unload().eval().to(pair.target.device)
    return Measured("transformers", None, Transformers(model, sorted(pair.target.stop_token_ids)))


def decode(pair: Pair, arguments: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each batch size and temperature when they are measured."""
    single = pair.prompts[: arguments.prompts]
    settings = {"max_tokens": arguments.max_tokens, "repeats": arguments.repeats}
    for batch, prompts, temperature in ((1, single, 0.0), (1, single, 1.0), (BATCH, pair.prompts, 0.0)):
        measured = engines(pair, batch)
        if (batch, temperature) == (1, 0.0):
            measured.append(transformers_row(pair))
        measure(measured, prompts, batch=batch, temperature=temperature, **settings)
        yield as_rows(measured, pair, batch=batch, temperature=temperature)


def gpu_name(device: str) -> str:
    """Return the driver's name of the GPU."""
    return torch.cuda.get_device_name() if device == "cuda" else "none: the CPU was asked for"


def main() -> None:
    """Adapt, decode, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--source", default=str(SHARED_DATA / DOMAIN.train), help="prompts to adapt on")
    parser.add_argument("--samples", type=int, default=432)
    parser.add_argument("--heldout", type=int, default=32, help="prompts that acceptance is measured on")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=8, help="prompts decoded one by one")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("EDA_HOME", str(OUT / "home"))
    made = adapt(arguments)
    sys.stderr.write(f"{json.dumps(made, indent=1)}\n")
    pair = load(Path(made.pop("root")), arguments)
    rows: list[dict[str, Any]] = []
    result = {
        **header("make bench NAME=gpu"),
        "gpu": gpu_name(arguments.device),
        "dtype": str(pair.target.dtype).removeprefix("torch."),
        "adaptation": made,
        "rows": rows,
    }
    for found in decode(pair, arguments):
        rows += found
        show(found)
        if not arguments.no_write:
            sys.stderr.write(f"wrote {write_result('gpu.json', result)}\n")


if __name__ == "__main__":
    main()
