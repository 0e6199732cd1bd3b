"""Which of two packs is worse, and which of many is the champion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pack_files import put_pack

from eda_service.artifacts.files import write_json
from eda_service.artifacts.packs import PackVersion, champion, read_pack, regression

TREE = {"size": 60, "depth": 5, "width": 10}


def pack(home: Path, acceptance_length: float, **changes: Any) -> PackVersion:
    name, _, version = put_pack(home, "math", acceptance_length, **changes).partition("@")
    return read_pack(name, int(version), home)


def test_a_pack_is_held_against_the_one_it_replaces_when_both_measured_alike(home: Path) -> None:
    old, worse, equal, better = (pack(home, length) for length in (2.35, 2.349, 2.35, 2.36))
    assert regression(better, old) is None
    assert regression(equal, old) is None
    why = regression(worse, old)
    assert why is not None
    assert "math@2 has acceptance_length 2.349, below the 2.350 of math@1" in why


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 4},
        {"prompts": "q"},
        {"weights_sha256": "v" * 64},
        {"evaluation": {"tree": TREE}},
        {"evaluation": {"num_prompts": 20}},
        {"eval_dataset": {"source": "/data/other.jsonl"}},
    ],
    ids=["seed", "prompts", "target", "tree", "number", "set"],
)
def test_what_was_measured_otherwise_does_not_count_and_the_base_draft_does(home: Path, other: dict[str, Any]) -> None:
    old = pack(home, 3.0)
    assert regression(pack(home, 1.5, **other), old) is None
    why = regression(pack(home, 1.3, **other), old)
    assert why is not None
    assert "1.300, below the 1.400 of its base draft alone" in why


def test_without_an_earlier_pack_the_base_draft_is_the_limit(home: Path) -> None:
    assert regression(pack(home, 1.4), None) is None
    assert regression(pack(home, 1.39), None) is not None


def test_a_set_of_its_own_is_the_same_set_whatever_the_training_prompts(home: Path) -> None:
    held_out = {"source": "/data/held-out.jsonl", "num_prompts": 16}
    old = pack(home, 2.0, eval_dataset=held_out, prompts="a")
    assert regression(pack(home, 1.9, eval_dataset=held_out, prompts="b"), old) is not None


def test_a_pack_that_does_not_say_what_it_measured_cannot_be_compared(home: Path) -> None:
    write_json(home / "packs" / "mute" / "1" / "manifest.json", {})
    mute = read_pack("mute", 1, home)
    assert (mute.manifest, mute.evaluation) == (None, None)
    assert regression(mute, pack(home, 3.0)) is None
    assert champion([mute]) is None


def test_the_champion_is_the_best_of_those_measured_as_the_newest(home: Path) -> None:
    versions = [
        pack(home, 9.0, evaluation={"tree": TREE}),
        pack(home, 2.0),
        pack(home, 2.5),
        pack(home, 2.5),
        pack(home, 2.4),
    ]
    best = champion(versions)
    assert best is not None
    assert best.reference == "math@4"
    assert best.evaluation is not None
    assert (best.evaluation.acceptance_length, best.evaluation.base_acceptance_length) == (2.5, 1.4)
