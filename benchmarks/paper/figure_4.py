"""Figure 4: one answer with the base draft and with the adapted one; tokens that the target corrected are red."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.paper.domains import domains_of
from benchmarks.paper.run import CHAIN, HOME, OUT
from benchmarks.paper.tasks import transcripts_of
from benchmarks.workloads import BASE_DRAFT, SHARED_DATA
from eda_service.decoding.build import load_drafts
from eda_service.drafts.checkpoint import LoadedDraft
from eda_service.evaluation.replay import Replay, Transcript
from eda_service.records import Stage
from eda_service.storage.published.registry import find_draft
from eda_service.storage.runs.run import RunDir
from eda_service.targets.loader import Target, load_target

COLUMNS, MOST_TOKENS = 74, 110


@torch.inference_mode()
def marks(target: Target, loaded: LoadedDraft, transcript: Transcript) -> tuple[list[tuple[str, bool]], float]:
    """Return pieces of text, each with whether it was drafted right, and the answer's acceptance length."""
    head = loaded.draft.head(target.lm_head, loaded.vocab_W)
    replay = Replay(loaded.draft, target.embed, head, num_draft_tokens=CHAIN)
    stats = replay.run([transcript])[0]
    right = [True]  # the prefill's token is not drafted
    for count in replay.emitted[0]:
        right += [True] * (count - 1) + [count > CHAIN]
    answer = transcript.token_ids[transcript.num_prompt_tokens :]
    pieces = [target.tokenizer.decode([token]) for token in answer]
    shown = list(zip(pieces, right, strict=True))[:MOST_TOKENS]
    return shown, 1.0 + stats.num_accepted_tokens / stats.num_rounds


def draw(panels: dict[str, list[tuple[str, bool]]], path: Path) -> None:
    """Draw monospaced text, token by token."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5))
    for number, (title, pieces) in enumerate(panels.items()):
        axes = figure.add_axes((0.01 + 0.5 * number, 0.02, 0.48, 0.9))
        axes.set(xlim=(0, COLUMNS), ylim=(24, 0))
        axes.axis("off")
        axes.set_title(title, fontsize=10, loc="left")
        column = line = 0
        for piece, right in pieces:
            for i, part in enumerate(piece.replace("\r", "").replace("\t", "    ").split("\n")):
                if i:
                    column, line = 0, line + 1
                if column + len(part) > COLUMNS:
                    column, line = 0, line + 1
                color = "black" if right else "tab:red"
                axes.text(column, line, part, family="monospace", fontsize=8.5, color=color, va="top")
                column += len(part)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Draw one HumanEval answer of the code target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=SHARED_DATA)
    parser.add_argument("--base-draft", default=BASE_DRAFT)
    parser.add_argument("--cell", default="code-eda-selfgen-s0")
    parser.add_argument("--task", default="humaneval")
    parser.add_argument(
        "--number", type=int, default=5, help="of the answer; the default is one of nearly a hundred tokens"
    )
    arguments = parser.parse_args()
    domain = domains_of(arguments.cell.split("-")[0], [])[0]
    target = load_target(domain.target)
    texts = transcripts_of(target, domain.name, domain.tasks, arguments.data, HOME / "transcripts", sampled=False)
    transcript = texts[arguments.task, 0.0][arguments.number]
    base_dir = find_draft(arguments.base_draft)
    pack = RunDir.of_job(arguments.cell, HOME).root / Stage.TRAIN / "pack"
    panels = {}
    for name, directory in (("Base draft, as it is", None), ("EDA-adapted draft", pack)):
        pieces, length = marks(target, load_drafts(base_dir, directory, target=target), transcript)
        panels[f"{name} (acceptance length of this answer {length:.2f}, chain of {CHAIN})"] = pieces
    draw(panels, OUT / "figure-4.png")


if __name__ == "__main__":
    main()
