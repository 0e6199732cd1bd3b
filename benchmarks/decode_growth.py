"""How the cost of a round grows: `make bench NAME=growth` writes `benchmarks/results/decode-growth.json` and `.png`.

It measures milliseconds per round over batch, context and tree size, medians over rounds, every setting in turn within
each repeat; also the cost of capturing hidden states, and of a draft that never fits with adaptive depth.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.engines import Ours
from benchmarks.workloads import DOMAINS, RESULTS, SHARED_DATA, Pair, header, load_pair, write_result
from eda_service.config.job import TreeConfig
from eda_service.decoding.engine import Engine
from eda_service.decoding.policy import Adaptive
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.kinds import make_draft

BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (128, 256, 512, 1024, 2048, 4096)
TREE_SIZES = (3, 7, 15, 31, 63)  # with the root a power of two, because oneDNN works in blocks of eight rows
CHAIN = 3


def round_ms(engine: Engine, prompts: list[list[int]], num_rounds: int) -> float:
    """Measure the median milliseconds of a full round, prefill excluded."""
    params = SamplingParams(max_new_tokens=(num_rounds + 2) * (engine.num_draft_tokens + 1))
    for i, ids in enumerate(prompts):
        engine.submit(str(i), ids, params)
    while engine.num_waiting:
        engine.step()
    seconds = []
    for _ in range(num_rounds):
        started = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - started)
    for i in range(len(prompts)):
        engine.cancel(str(i))
    engine.step()
    return median(seconds) * 1e3


def unstopped(pair: Pair) -> None:
    """Let answers continue to their cap, so that a batch keeps its size."""
    pair.target.stop_token_ids = frozenset()


def context_of(pair: Pair, length: int) -> list[int]:
    """Join prompts of the domain up to a length."""
    ids = [token for prompt in pair.prompts for token in prompt]
    return (ids * (length // len(ids) + 1))[:length]


def over_batch(pair: Pair, draft: str, rounds: int) -> list[dict[str, Any]]:
    """Measure autoregressive steps and chain rounds by batch, at contexts of about 128."""
    rows = []
    for batch in BATCHES:
        prompts = [context_of(pair, 128)] * batch
        plain = round_ms(pair.engine(None, max_batch=batch, max_tokens=512), prompts, rounds)
        chain = pair.engine(draft, max_batch=batch, max_tokens=512, num_draft_tokens=CHAIN)
        rows.append({"batch": batch, "autoregressive_ms": plain, "chain_ms": round_ms(chain, prompts, rounds)})
    return rows


def over_context(pair: Pair, draft: str, rounds: int) -> list[dict[str, Any]]:
    """Measure autoregressive steps and chain rounds by context, batch 1."""
    rows = []
    for context in CONTEXTS:
        prompts = [context_of(pair, context)]
        plain = round_ms(pair.engine(None, max_tokens=context + 512), prompts, rounds)
        chain = pair.engine(draft, max_tokens=context + 512, num_draft_tokens=CHAIN)
        rows.append({"context": context, "autoregressive_ms": plain, "chain_ms": round_ms(chain, prompts, rounds)})
    return rows


def over_tree(pair: Pair, draft: str, rounds: int) -> list[dict[str, Any]]:
    """Measure rounds by tree size at batch 1, depth 4 and width 8, and their acceptance on the domain's prompts."""
    rows = []
    for size in TREE_SIZES:
        tree = TreeConfig(size=size, depth=4, width=8)
        ms = round_ms(pair.engine(draft, max_tokens=1024, tree=tree), [context_of(pair, 128)], rounds)
        engine = pair.engine(draft, max_batch=8, max_tokens=1024, tree=tree)
        run = Ours(engine).decode(pair.prompts, temperature=0, max_tokens=64)
        rows.append({"size": size, "round_ms": ms, "acceptance_length": 1 + run.num_accepted / run.num_rounds})
    return rows


def ratio_of(engines: tuple[Engine, Engine], prompts: list[list[int]], repeats: int) -> dict[str, float]:
    """Measure the speed of the second engine divided by the first's, in turns, one prompt at a time."""
    ratios = []
    contenders = [Ours(engine) for engine in engines]
    for contender in contenders:
        contender.decode(prompts[:1], temperature=0, max_tokens=32)
    for _ in range(repeats):
        seconds = [0.0, 0.0]
        for turn, ids in enumerate(prompts):
            for i in (0, 1) if turn % 2 else (1, 0):
                seconds[i] += contenders[i].decode([ids], temperature=0, max_tokens=96).seconds
        ratios.append(seconds[0] / seconds[1])
    return {"median": round(median(ratios), 4), "min": round(min(ratios), 4), "max": round(max(ratios), 4)}


def overheads(pair: Pair, repeats: int) -> dict[str, Any]:
    """Compare capturing with not capturing, and a random draft with adaptive depth with no draft."""
    config = next(iter(pair.drafts.values())).draft.config
    torch.manual_seed(0)
    useless = make_draft(config).to(pair.target.dtype).requires_grad_(False)
    pair.drafts["useless"] = type(pair.drafts["base"])(useless, pair.drafts["base"].vocab_W)
    plain = pair.engine(None)
    return {
        "capture_speed_ratio": ratio_of((plain, pair.engine(None, capture_features=True)), pair.prompts, repeats),
        "useless_draft_speed_ratio": ratio_of(
            (plain, pair.engine("useless", num_draft_tokens=5, policy=Adaptive())), pair.prompts, repeats
        ),
        "same_engine_speed_ratio": ratio_of((plain, pair.engine(None)), pair.prompts, repeats),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """Plot three panels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, name in zip(axes[:2], ("batch", "context"), strict=True):
        rows = result[f"over_{name}"]
        for key, label in (("autoregressive_ms", "autoregressive"), ("chain_ms", f"chain of {CHAIN}")):
            axis.plot([row[name] for row in rows], [row[key] for row in rows], marker="o", label=label)
        axis.set(xlabel=name, ylabel="ms per round", xscale="log", yscale="log")
        axis.minorticks_off()
        axis.set_xticks([row[name] for row in rows], [str(row[name]) for row in rows])
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_yticks([10, 20, 50, 100, 200] if name == "batch" else [10, 15, 20, 30, 40])
        axis.legend()
    rows = result["over_tree"]
    sizes = [row["size"] for row in rows]
    axes[2].plot(sizes, [row["round_ms"] for row in rows], marker="o", label="ms per round")
    axes[2].set(xlabel="tree size (depth 4, width 8)", ylabel="ms per round", ylim=(0, None))
    twin = axes[2].twinx()
    twin.plot(sizes, [row["acceptance_length"] for row in rows], color="tab:green", marker="s", label="acceptance")
    twin.set(ylabel="acceptance_length", ylim=(1, None))
    axes[2].legend(loc="lower right")
    twin.legend(loc="center right")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, plot, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pair = load_pair(DOMAINS[0], arguments.data, 8)
    assert pair is not None
    draft = "adapted" if "adapted" in pair.drafts else "base"
    result = {**header("make bench NAME=growth"), "threads": arguments.threads, **overheads(pair, arguments.repeats)}
    unstopped(pair)
    result |= {
        "over_batch": over_batch(pair, draft, arguments.rounds),
        "over_context": over_context(pair, draft, arguments.rounds),
        "over_tree": over_tree(pair, draft, arguments.rounds),
    }
    path = write_result("decode-growth.json", result)
    plot(result, RESULTS / "decode-growth.png")
    sys.stderr.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
