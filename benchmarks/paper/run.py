"""Run cells of the grid, each once: `make bench NAME=paper` writes `benchmarks/results/paper/<cell>.json`.

Data are generated once (`benchmarks.paper.data`); each cell then runs the product's own stages select and train (Ray
Train with DeepSpeed) on them and is measured by replay (`eda_service.evaluation.replay`). A cell whose file exists is
skipped, or with `--measure-again` measured again with the pack that its training has left on this machine. Several
processes may share the work, one per domain: `--domains math`. `--domain FILE` adds a target and tasks of the user
(`benchmarks.paper.domains`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.cells import ABLATIONS, BROUGHT, GROUPS, LARGE, Cell
from benchmarks.paper.data import config_of, generated_set, link
from benchmarks.paper.domains import PaperDomain, domains_of, has_references, prompt_file, require_files
from benchmarks.paper.gate import gate_statistics
from benchmarks.paper.tasks import MAX_NEW_TOKENS, MAX_PROMPT_TOKENS, transcripts_of
from benchmarks.workloads import BASE_DRAFT, RESULTS, ROOT, SHARED_DATA, header, when_and_where
from eda_service.config.job import TreeConfig
from eda_service.decoding.build import load_drafts
from eda_service.decoding.engine import Engine
from eda_service.decoding.request import RequestStats, SamplingParams
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.errors import InputError
from eda_service.evaluation.acceptance import summarise
from eda_service.evaluation.decode import decode_all
from eda_service.evaluation.replay import Replay, Transcript
from eda_service.pipeline.select import SELECT
from eda_service.pipeline.stage import run_stage
from eda_service.pipeline.train import TRAIN
from eda_service.raycluster.resources import connect
from eda_service.records import DraftCheckpoint, SelectionManifest, SelfGenManifest, Stage
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import Target, load_target

OUT = RESULTS / "paper"
HOME = ROOT / "out" / "paper"
TREE = TreeConfig()
CHAIN = 5


@dataclass
class Bench:
    """The common inputs of a domain's cells.

    Attributes:
        domain: Target, prompts and tasks.
        base_draft: Base draft as name@version.
        data: Directory of the domain's files.
    """

    domain: PaperDomain
    base_draft: str
    data: Path

    @property
    def home(self) -> Path:
        """Directory of its runs, separate for each base draft, because cells have the same names."""
        return HOME if self.base_draft == BASE_DRAFT else HOME / self.base_draft.replace("@", "-")

    @cached_property
    def target(self) -> Target:
        """The tuned target."""
        return load_target(self.domain.target)

    @cached_property
    def has_references(self) -> bool:
        """Whether there is data "original"."""
        return has_references(self.domain, self.data)

    @cached_property
    def prompts(self) -> Path:
        """Path of the training prompts."""
        return prompt_file(self.domain, self.data)

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train, measure and describe a cell."""
        started = time.monotonic()
        pack: Path | None = None
        made: dict[str, Any] = {}
        if cell.method != "training-free":
            pack, made = self._train(cell)
        trained = time.monotonic() - started
        measured, gate = self._measure(cell, pack)
        return {
            **header("make bench NAME=paper"),
            "cell": {"domain": cell.domain, "method": cell.method, "data": cell.data, "seed": cell.seed},
            "base_draft": self.base_draft,
            "settings": cell.settings,
            **made,
            "tasks": measured,
            **headline(measured),
            "gate": gate,
            "speedup": None,
            "seconds": {"train_stages": round(trained, 1), "all": round(time.monotonic() - started, 1)},
        }

    def again(self, cell: Cell, result: dict[str, Any]) -> dict[str, Any] | None:
        """Measure a finished cell's pack again; None if that is not on this machine."""
        pack = None if cell.method == "training-free" else pack_of(cell.name, self.home)
        if pack is not None and not is_whole(pack):
            return None
        measured, gate = self._measure(cell, pack)
        return {**result, "tasks": measured, **headline(measured), "gate": gate, "measured_again": when_and_where()}

    def _train(self, cell: Cell) -> tuple[Path, dict[str, Any]]:
        connect()
        config = config_of(cell, self.domain, self.base_draft, self.prompts)
        source = generated_set(cell, config, self.home, self.target)
        generated = source.read_record(SelfGenManifest, Stage.GENERATE)
        assert generated is not None
        run = RunDir.of_job(cell.name, self.home)
        shutil.rmtree(run.root, ignore_errors=True)
        run.create(config, origin="benchmark")
        link(source.root / Stage.GENERATE.value, run.stage_dir(Stage.GENERATE))
        selected, trained = run_stage(run, config, SELECT), run_stage(run, config, TRAIN)
        for stage in (Stage.GENERATE, Stage.SELECT):
            shutil.rmtree(run.stage_dir(stage))
        shutil.rmtree(run.stage_dir(Stage.TRAIN) / "ray", ignore_errors=True)
        return pack_of(cell.name, self.home), _described(generated, selected, trained)

    @torch.inference_mode()
    def _measure(self, cell: Cell, pack: Path | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Measure acceptance by task and temperature, and the use of the gate on the first task."""
        target, domain = self.target, self.domain
        loaded = load_drafts(find_draft(self.base_draft), pack, target=target)
        transcripts = transcripts_of(
            target,
            domain.name,
            domain.tasks,
            self.data,
            HOME / "transcripts",
            sampled=cell.full,
            captures=loaded.draft.config.captures,
        )
        found: dict[str, Any] = {}
        for (task, temperature), texts in transcripts.items():
            row = found.setdefault(task, {}).setdefault(f"T{temperature:g}", {})
            row["tree"] = counted(replayed(target, loaded, texts, TREE, temperature), temperature, TREE.depth)
            if cell.full:
                row["chain"] = counted(_chain(target, loaded, texts, temperature), temperature, CHAIN)
        first = next(texts for (_, temperature), texts in transcripts.items() if temperature == 0)
        return found, gate_statistics(target, loaded, first, TREE)


def pack_of(cell: str, home: Path = HOME) -> Path:
    """Return the directory in which a cell's training leaves its pack."""
    return RunDir.of_job(cell, home).root / Stage.TRAIN.value / "pack"


def is_whole(pack: Path) -> bool:
    """Whether the training that leaves a pack there has ended: while it runs, the directory has the best weights so
    far.
    """
    return pack.is_dir() and (pack.parent / "record.json").is_file()


def _described(generated: SelfGenManifest, selected: SelectionManifest, trained: DraftCheckpoint) -> dict[str, Any]:
    return {
        "generated": {
            "num_samples": generated.num_samples,
            "num_answer_tokens": generated.num_answer_tokens,
            "seconds": round(generated.generation_seconds, 1),
        },
        "selected": {
            "num_samples": selected.num_selected,
            "num_answer_tokens": selected.num_answer_tokens,
            "value_name": selected.value_name,
            "seconds_over_generation": round(selected.selection_over_generation_time, 5),
        },
        "trained": {
            "seconds": round(trained.training_seconds, 1),
            "num_steps": trained.num_steps,
            "best_step": trained.best_step,
            "num_trainable": trained.num_trainable,
            "trainable_fraction": round(trained.trainable_fraction, 4),
            "initial_simulated_acceptance_length": trained.initial_simulated_acceptance_length,
            "best_simulated_acceptance_length": trained.best_simulated_acceptance_length,
            "curve": [
                [round(point.seconds, 1), round(point.simulated_acceptance_length, 4)]
                for point in trained.curve
                if point.simulated_acceptance_length is not None
            ],
        },
    }


def replayed(
    target: Target, loaded: LoadedDraft, texts: list[Transcript], tree: TreeConfig | None, temperature: float
) -> list[RequestStats]:
    """Replay a draft over transcripts and return the counts."""
    head = loaded.draft.head(target.lm_head, loaded.vocab_W)
    replay = Replay(loaded.draft, target.embed, head, num_draft_tokens=CHAIN, tree=tree, batch_size=16)
    return replay.run(texts, temperature)


def _chain(target: Target, loaded: LoadedDraft, texts: list[Transcript], temperature: float) -> list[RequestStats]:
    """Count chains: replayed at T=0, decoded at T>0."""
    if temperature == 0:
        return replayed(target, loaded, texts, None, 0.0)
    head = loaded.draft.head(target.lm_head, loaded.vocab_W)
    most = MAX_PROMPT_TOKENS + MAX_NEW_TOKENS
    engine = Engine(target, loaded.draft, head, num_draft_tokens=CHAIN, max_batch=16, max_tokens=most)
    params = SamplingParams(temperature=temperature, max_new_tokens=MAX_NEW_TOKENS)
    return decode_all(engine, [each.token_ids[: each.num_prompt_tokens] for each in texts], params).stats


def counted(stats: list[RequestStats], temperature: float, depth: int) -> dict[str, Any]:
    """Make a task's numbers from the counts."""
    row = summarise("", temperature, stats, num_draft_tokens=depth)
    return {
        "acceptance_length": round(row.acceptance_length, 4),
        "mean_accepted": round(row.mean_accepted, 4),
        "acceptance_by_position": [round(rate, 4) for rate in row.acceptance_by_position],
        "num_rounds": row.num_rounds,
        "num_new_tokens": row.num_new_tokens,
    }


def headline(measured: dict[str, Any]) -> dict[str, float]:
    """Compute means over tasks, for trees at T=0."""
    lengths = [task["T0"]["tree"]["acceptance_length"] for task in measured.values()]
    mean = sum(lengths) / len(lengths)
    return {"acceptance_length": round(mean, 4), "mean_accepted": round(mean - 1.0, 4)}


def cells(domain: str, groups: Iterable[str]) -> Iterator[Cell]:
    """Yield the cells group by group, so that the grid comes first."""
    for group in groups:
        yield from {**GROUPS, **BROUGHT, **LARGE}[group](domain)


def arguments_of() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA, help="folder with train/ and eval/")
    parser.add_argument("--base-draft", default=BASE_DRAFT)
    parser.add_argument("--domains", help="shipped ones, separated by commas; default: all")
    parser.add_argument("--domain", type=Path, action="append", default=[], help="JSON file of a domain of your own")
    parser.add_argument("--groups", default=",".join(GROUPS))
    parser.add_argument("--ablations-of", default="math", help="domains whose ablations are run, separated by commas")
    parser.add_argument("--only", help="run cells whose name contains this")
    parser.add_argument("--measure-again", action="store_true", help="finished cells whose packs are here, no others")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Run every missing cell."""
    arguments = arguments_of()
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    groups, ablated = arguments.groups.split(","), arguments.ablations_of.split(",")
    try:
        domains = domains_of(arguments.domains, arguments.domain)
        for domain in domains:
            require_files(domain, arguments.data)
    except InputError as error:
        raise SystemExit(error.message) from error
    for domain in domains:
        bench = Bench(domain, arguments.base_draft, arguments.data)
        for cell in cells(domain.name, [name for name in groups if name not in ABLATIONS or domain.name in ablated]):
            if not arguments.only or arguments.only in cell.name:
                run_once(bench, cell, arguments.out / f"{cell.name}.json", again=arguments.measure_again)


def run_once(bench: Bench, cell: Cell, path: Path, *, again: bool) -> None:
    """Write a cell's result, unless it exists."""
    if path.exists() != again:
        return
    if cell.data == "original" and not bench.has_references:
        sys.stderr.write(f"{cell.name}: left out, rows of {bench.domain.train} have no reference\n")
        return
    result = bench.again(cell, json.loads(path.read_text(encoding="utf-8"))) if again else bench.run(cell)
    if result is None:
        sys.stderr.write(f"{cell.name}: its pack is not on this machine\n")
        return
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.rename(path)
    sys.stderr.write(f"{cell.name}: {result['acceptance_length']}\n")


if __name__ == "__main__":
    main()
