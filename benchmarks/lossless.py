"""T=0 losslessness on 200 prompts: `make proof NAME=lossless` writes `benchmarks/results/lossless.json`.

SmolLM2-135M-Instruct with its base draft: chains and trees are compared with autoregressive decoding in the same
engine. In float32 every answer must be token-identical; in bfloat16 a difference must be a near tie of the target's own
logits. The exit code is 1 if this does not hold. (Tiny random models of every family are tested in
`tests/unit/decoding`.)
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch

from benchmarks.workloads import BASE_DRAFT, header, write_result
from eda_service.config.job import DatasetSpec, TargetSpec, TreeConfig
from eda_service.decoding.build import load_drafts, make_engine
from eda_service.decoding.request import SamplingParams
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.lossless import check_lossless
from eda_service.selfgen.prompts import general_prompts_file, load_prompts
from eda_service.storage.published.registry import find_draft
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.loader import Target, load_target

NUM_PROMPTS = 200
SHAPES: dict[str, dict[str, Any]] = {
    "chain of 5": {"num_draft_tokens": 5},
    "tree 16/4/4": {"num_draft_tokens": 4, "tree": TreeConfig(size=16, depth=4, width=4)},
    "tree 60/5/10": {"num_draft_tokens": 5, "tree": TreeConfig()},
}


def prompts_for(target: Target) -> list[list[int]]:
    """Make 128 general prompts and 72 sums, all from the package or PyPI."""
    sources = ((str(general_prompts_file()), 128), ("reasoning-gym:gsm_symbolic", NUM_PROMPTS - 128))
    found = [load_prompts(DatasetSpec(source=source, num_prompts=count), seed=1) for source, count in sources]
    return [render_prompt(target.tokenizer, prompt.messages) for group in found for prompt in group]


def check(dtype: str, name: str, num_prompts: int, max_tokens: int) -> dict[str, Any]:
    """Check one shape of draft in one precision."""
    target = load_target(TargetSpec(model="smollm2-135m-instruct", dtype=dtype))
    draft = load_drafts(find_draft(BASE_DRAFT), None, target=target)
    prompts = prompts_for(target)[:: NUM_PROMPTS // num_prompts]
    params = SamplingParams(max_new_tokens=max_tokens)
    sizes = {"max_batch": 20, "max_tokens": 600}
    started = time.perf_counter()
    plain = decode_all(make_engine(target, None, num_draft_tokens=0, **sizes), prompts, params)
    drafted = decode_all(make_engine(target, draft, **SHAPES[name], **sizes), prompts, params)
    accepted = sum(stats.num_accepted_tokens for stats in drafted.stats)
    rounds = sum(stats.num_rounds for stats in drafted.stats)
    found = check_lossless(OwnEngine(target), prompts, plain.token_ids, drafted.token_ids)
    row = {
        "shape": name,
        "acceptance_length": round(1 + accepted / rounds, 3),
        "num_tokens": sum(len(ids) for ids in plain.token_ids),
        **json.loads(found.model_dump_json()),
        "seconds": round(time.perf_counter() - started, 1),
    }
    sys.stderr.write(f"{row}\n")
    return row


def main() -> int:
    """Check, write, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [
        check("float32", "chain of 5", NUM_PROMPTS, 40),
        check("float32", "tree 16/4/4", NUM_PROMPTS, 40),
        check("float32", "tree 60/5/10", 20, 24),
        check("bfloat16", "chain of 5", NUM_PROMPTS, 40),
        check("bfloat16", "tree 16/4/4", NUM_PROMPTS, 40),
    ]
    write_result("lossless.json", {**header("make proof NAME=lossless"), "threads": arguments.threads, "rows": rows})
    wrong = [row for row in rows if row["num_different"] or (row["dtype"] == "float32" and row["num_near_ties"])]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
