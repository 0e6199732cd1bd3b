"""The inputs of the decode benchmarks: shipped targets with a base draft and packs, and prompts of their domain."""

from __future__ import annotations

import datetime
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eda_service.config.job import DatasetSpec, TargetSpec
from eda_service.decoding.build import load_drafts
from eda_service.decoding.engine import Engine
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.selfgen.prompts import load_prompts
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.provenance import library_versions, machine
from eda_service.targets.chat.chat import render_prompt
from eda_service.targets.loader import Target, load_target

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PARTS = ROOT / "out" / "prompts"

BASE_DRAFT = "smollm2-135m@3"
PACKS_BASE_DRAFT = "smollm2-135m@2"
"""Base draft of the committed packs."""
SHARED_DATA = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Domain:
    """A shipped tuned target, the pack adapted to it, and held-out prompts.

    Attributes:
        name: Name in the rows.
        target: Shipped tuned target (a LoRA adapter on SmolLM2-135M-Instruct).
        train: File under the data directory with the prompts of the pack.
        prompts: File under the data directory with held-out prompts; the same as `train`: its last rows.
        fallback: Prompts to use if that file is absent; None: the domain is skipped.
        base_draft: Draft, as name@version, beside whose FFN the pack was trained.
        pack: Directory of the pack; None: the committed one.
    """

    name: str
    target: str
    train: str
    prompts: str
    fallback: str | None
    base_draft: str = PACKS_BASE_DRAFT
    pack: Path | None = None

    @property
    def pack_dir(self) -> Path:
        """The pack; by default the committed one (`make bench NAME=packs`)."""
        return self.pack or ROOT / "benchmarks" / "packs" / self.target

    @property
    def num_held_back(self) -> int:
        """Number of last rows of `train` that neither the target nor the pack has seen."""
        return NUM_HELD_BACK if self.train == self.prompts else 0


NUM_HELD_BACK = 96
MEDQUAD = "train/medical/medquad.jsonl"
GENERATED_MATH = "reasoning-gym:gsm_symbolic?templates=80-99"
DOMAINS = (
    Domain("math", "smollm2-135m-math", "train/math/gsm8k.jsonl", "eval/math/gsm8k.jsonl", GENERATED_MATH),
    Domain("medical", "smollm2-135m-medical", MEDQUAD, MEDQUAD, None),
    Domain("code", "smollm2-135m-code", "train/code/mbpp.jsonl", "eval/code/mbpp.jsonl", None),
)


def split_rows(path: Path, num_held_back: int, out: Path, *, held_back: bool) -> Path:
    """Write one part of a JSON lines file: its last rows, or all others."""
    rows = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    edge = len(rows) - num_held_back
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(rows[edge:] if held_back else rows[:edge]) + "\n", encoding="utf-8")
    return out


@dataclass
class Pair:
    """A loaded target with its drafts by name and rendered prompts."""

    domain: Domain
    target: Target
    drafts: dict[str, LoadedDraft]
    prompts: list[list[int]]

    def engine(self, draft: str | None, **settings: Any) -> Engine:
        """Make an engine over this target: autoregressive, or with one of its drafts."""
        settings = {"max_batch": 1, "max_tokens": 1024} | settings
        if draft is None:
            return Engine(self.target, **settings)
        loaded = self.drafts[draft]
        return Engine(self.target, loaded.draft, loaded.draft.head(self.target.lm_head, loaded.vocab_W), **settings)


def load_pair(domain: Domain, data: Path, num_prompts: int) -> Pair | None:
    """Load target, drafts and prompts of a domain; None if it has no prompts here."""
    path = data / domain.prompts
    if path.exists() and domain.num_held_back:
        path = split_rows(path, domain.num_held_back, PARTS / f"{domain.name}-heldout.jsonl", held_back=True)
    source = str(path) if path.exists() else domain.fallback
    if source is None:
        return None
    target = load_target(TargetSpec(model=domain.target))
    base_dir = find_draft(domain.base_draft)
    drafts = {"base": load_drafts(base_dir, None, target=target)}
    if domain.pack_dir.exists():
        drafts["adapted"] = load_drafts(base_dir, domain.pack_dir, target=target)
    prompts = load_prompts(DatasetSpec(source=source, num_prompts=max(8, num_prompts)), seed=0)[:num_prompts]
    return Pair(domain, target, drafts, [render_prompt(target.tokenizer, prompt.messages) for prompt in prompts])


def when_and_where() -> dict[str, Any]:
    """Return date, commit and machine of a measurement."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, check=True, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {"date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(), "commit": commit, "machine": machine()}


def header(command: str) -> dict[str, Any]:
    """Return the first fields of every result file."""
    return {"command": command, **when_and_where(), "library_versions": library_versions()}


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write `results/<name>`."""
    path = RESULTS / name
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
