"""The README is short, and its picture and its table say what the result files say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean

from benchmarks.headline import PICTURE, drawn, panels

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAPER = ROOT / "benchmarks" / "results" / "paper"
DOMAINS = ("math", "code", "medical")
ROWS = {
    "base draft as it is": "training-free-none",
    "Full-FT on the data set's own answers": "full_ft-original",
    "Full-FT, self-generated": "full_ft-selfgen",
    "LoRA of matched size, self-generated": "lora-selfgen",
    "retrained from random weights, self-generated": "retrain-selfgen",
    "EDA as in the paper (half of the samples)": "eda-selfgen",
    "**EDA, preset `best`**": "best-selfgen",
}


def test_the_readme_is_a_page() -> None:
    assert len(README.splitlines()) <= 110


def test_the_committed_picture_is_what_the_files_give() -> None:
    assert PICTURE.read_text(encoding="utf-8") == drawn(panels())
    shown = re.findall(r">(\d\.\d\d)x?</text>", PICTURE.read_text(encoding="utf-8"))
    assert shown == ["2.00", "3.60", "2.10", "3.87", "2.07", "2.52", "1.10", "1.74", "1.10", "1.69", "1.12", "1.22"]


def test_the_table_says_what_the_cells_say() -> None:
    rows = {
        cells[0]: cells[1:]
        for cells in re.findall(r"^\| (.+?) \| (.*?) \| (.*?) \| (.*?) \| ?(.*?) ?\|$", README, re.M)
    }
    speeds = json.loads((PAPER / "summary.json").read_text(encoding="utf-8"))
    for label, name in ROWS.items():
        lengths = []
        for domain in DOMAINS:
            tasks = json.loads((PAPER / f"{domain}-{name}-s0.json").read_text(encoding="utf-8"))["tasks"].values()
            lengths.append(f"{fmean(task['T0']['tree']['acceptance_length'] for task in tasks):.2f}")
        speed = speeds.get(f"math.{name}.speedup")
        assert rows[label] == (*lengths, "" if speed is None else f"{speed:.2f}x"), label
