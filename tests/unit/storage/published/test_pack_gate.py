"""Which of two packs is worse, by which measurement, and which of many is the champion."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pack_files import put_pack

from eda_service.config.deploy import DeployConfig
from eda_service.config.job import AdaptConfig
from eda_service.records import PackManifest
from eda_service.storage.files import write_json
from eda_service.storage.published.gate import Comparison, beside_base, champion, common, regression, shortfall
from eda_service.storage.published.packs import PackVersion, measured_on, read_pack

TREE = {"size": 60, "depth": 5, "width": 10}
BEFORE_RIVALS = Path(__file__).parent / "manifest_before_rivals.json"


def pack(home: Path, acceptance_length: float, **changes: Any) -> PackVersion:
    name, _, version = put_pack(home, "math", acceptance_length, **changes).partition("@")
    return read_pack(name, int(version), home)


def worse(new: PackVersion, old: PackVersion) -> str | None:
    found = common(new, old)
    assert found is not None
    return regression(found)


def champion_of(*versions: PackVersion) -> str | None:
    best = champion(versions)
    return None if best is None else best.reference


def test_two_packs_that_measured_alike_are_compared(home: Path) -> None:
    old, lower, equal, better = (pack(home, length) for length in (2.35, 2.349, 2.35, 2.36))
    assert worse(better, old) is None
    assert worse(equal, old) is None
    why = worse(lower, old)
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
def test_what_was_measured_otherwise_is_not_compared(home: Path, other: dict[str, Any]) -> None:
    assert common(pack(home, 1.5, **other), pack(home, 3.0)) is None


def test_a_pack_measured_beside_the_other_is_compared_whoever_measured(home: Path) -> None:
    old = pack(home, 9.0, prompts="q", speedup=3.0)
    new = pack(home, 2.0, rivals={"math@1": (2.5, 1.6)}, speedup=1.2)
    assert common(new, old) == Comparison("math@2", "math@1", 2.0, 2.5, 1.2, 1.6)
    assert common(old, new) == Comparison("math@1", "math@2", 2.5, 2.0, 1.6, 1.2)


def test_packs_on_one_fixed_evaluation_are_compared_whichever_job_measured_them(home: Path) -> None:
    old = pack(home, 9.0, prompts="q")
    middle = pack(home, 9.0, prompts="r", fixed=("f", {"math@1": 2.0, "math@2": 2.2}))
    new = pack(home, 9.0, fixed=("f", {"math@3": 2.1}))
    other = pack(home, 9.0, prompts="s", fixed=("g", {"math@4": 2.1}))
    assert common(new, old, [middle]) == Comparison("math@3", "math@1", 2.1, 2.0)
    assert common(new, old) is None
    assert common(new, other, [old, middle]) is None


def test_a_set_of_its_own_is_the_same_set_whatever_the_training_prompts(home: Path) -> None:
    held_out = {"source": "/data/held-out.jsonl", "num_prompts": 16}
    old = pack(home, 2.0, eval_dataset=held_out, prompts="a")
    assert worse(pack(home, 1.9, eval_dataset=held_out, prompts="b"), old) is not None


def test_the_base_draft_alone_is_always_measured_beside(home: Path) -> None:
    found = beside_base(pack(home, 1.39, speedup=0.9, base_speedup=1.1))
    assert found == Comparison("math@1", "its base draft alone", 1.39, 1.4, 0.9, 1.1)
    assert "1.390, below the 1.400 of its base draft alone" in str(regression(found))


@pytest.mark.parametrize(
    ("length", "speedup", "old_speedup", "gate", "is_enough"),
    [
        (2.04, None, None, {}, True),
        (2.03, None, None, {}, False),
        (2.04, 1.01, 1.0, {}, True),
        (2.04, 1.0, 1.0, {}, False),
        (2.04, 0.5, 1.0, {"min_speed_gain": 0.0}, True),
        (2.04, 0.5, 1.0, {"min_speed_gain": None}, True),
        (2.04, 1.1, 1.0, {"min_speed_gain": 1.1}, False),
        (1.0, 1.1, 1.0, {"min_gain": 0.5}, True),
    ],
)
def test_the_least_gain(
    length: float, speedup: float | None, old_speedup: float | None, gate: dict[str, Any], is_enough: bool
) -> None:
    found = Comparison("math@2", "math@1", length, 2.0, speedup, old_speedup)
    assert (shortfall(found, DeployConfig(**gate)) is None) is is_enough


def test_a_pack_that_does_not_say_what_it_measured_cannot_be_compared(home: Path) -> None:
    write_json(home / "packs" / "mute" / "1" / "manifest.json", {})
    mute = read_pack("mute", 1, home)
    assert (mute.manifest, mute.evaluation) == (None, None)
    assert beside_base(mute) is None
    assert common(mute, pack(home, 3.0)) is None
    assert champion([mute]) is None


def test_the_champion_is_the_best_on_the_fixed_evaluation_and_the_older_of_equals(home: Path) -> None:
    versions = [
        pack(home, 2.3, fixed=("f", {"math@1": 2.3})),
        pack(home, 9.0, prompts="few", fixed=("f", {"math@2": 1.33, "math@1": 1.0})),  # a pack's own job is believed
        pack(home, 2.0, prompts="other", fixed=("f", {"math@3": 2.3})),
    ]
    assert champion_of(*versions) == "math@1"
    versions.append(pack(home, 1.0, prompts="hard", fixed=("f", {"math@4": 2.31})))
    assert champion_of(*versions) == "math@4"
    pinned_away = versions[:2] + versions[3:]
    assert champion_of(*pinned_away) == "math@4"


def test_only_versions_for_the_newest_target_can_be_champion(home: Path) -> None:
    old = pack(home, 3.0, weights_sha256="v" * 64, fixed=("f", {"math@1": 3.0}))
    new = pack(home, 2.0, fixed=("g", {"math@2": 2.0}))
    assert champion_of(old) == "math@1"
    assert champion_of(old, new) == "math@2"


def test_packs_of_before_are_compared_among_themselves_until_one_was_measured_again(home: Path) -> None:
    before = [pack(home, 9.0, evaluation={"tree": TREE}), *(pack(home, length) for length in (2.0, 2.5, 2.5, 2.4))]
    assert champion_of(*before) == "math@3"
    unasked = pack(home, 1.33, prompts="few", fixed=("f", {"math@6": 1.33}))
    assert champion_of(*before, unasked) == "math@3"
    asked = pack(home, 1.33, prompts="few", fixed=("f", {"math@7": 1.33, "math@3": 2.2}))
    assert champion_of(*before, unasked, asked) == "math@3"
    better = pack(home, 1.33, prompts="few", fixed=("f", {"math@8": 2.3}))
    assert champion_of(*before, unasked, asked, better) == "math@8"


def test_a_champion_of_before_that_does_not_load_any_more_gives_way(home: Path) -> None:
    before = pack(home, 2.5)
    after = pack(home, 1.5, prompts="few", fixed=("f", {"math@2": 1.5}), unmeasured={"math@1": "gone"})
    assert champion_of(before, after) == "math@2"


def test_a_manifest_of_before_rivals_loads(home: Path) -> None:
    directory = home / "packs" / "math" / "1"
    directory.mkdir(parents=True)
    shutil.copyfile(BEFORE_RIVALS, directory / "manifest.json")
    found = read_pack("math", 1, home)
    assert isinstance(found.manifest, PackManifest)
    assert found.evaluation is not None
    assert (found.evaluation.acceptance_length, found.evaluation.rivals, found.evaluation.fixed) == (2.35, (), None)
    assert found.evaluation.measured_on == "16 of the prompts that the target wrote itself"
    assert champion_of(found) == "math@1"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"dataset": {"source": "/home/me/mine.jsonl"}}, "16 prompts split off mine.jsonl"),
        (
            {"dataset": {"source": "org/questions"}, "evaluation": {"num_prompts": 4}},
            "4 prompts split off org/questions",
        ),
        ({"eval_dataset": {"source": "/data/held.jsonl", "num_prompts": 12}}, "12 prompts of held.jsonl"),
        (
            {"eval_dataset": {"source": "reasoning-gym:gsm_symbolic?templates=80-99", "num_prompts": 16}},
            "16 prompts of reasoning-gym:gsm_symbolic?templates=80-99",
        ),
        ({"eval_dataset": {"source": "self"}}, "16 prompts that the target wrote itself"),
    ],
)
def test_what_was_measured_on_in_words(config: dict[str, Any], words: str) -> None:
    assert measured_on(AdaptConfig.model_validate({"target": {"model": "org/model"}, **config})) == words


def test_as_many_as_were_measured() -> None:
    config = AdaptConfig.model_validate({"target": {"model": "m"}, "dataset": {"source": "/a/mine.jsonl"}})
    assert measured_on(config, 15) == "15 prompts split off mine.jsonl"
