"""The cells of the paper's grid and of the ablations: method, data and settings of each draft.

A cell is one draft for one tuned target. Its name is its result file, so a cell is never run twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

Settings = dict[str, Any]

PAPER: Settings = {
    "selection.method": "all",
    "train.private_width_fraction": 0.25,
    "train.train_fc": True,
    "train.batch_size": 8,
    "train.learning_rate": 1.5e-3,
    "train.draft_vocab_size": 4096,
    "train.num_workers": 1,
    "train.threads_per_worker": 1,
}
"""The paper's recipe at this size: one-step loss with the released code's weights, fc trained as in Table 4. There a
half-width private expert and fc are 27.6 % of the draft; here fc is a larger part of it, and a quarter-width one makes
27.3 %. Steps are fewer and the learning rate is higher than the paper's, for every method alike.
"""
CANDIDATE: Settings = {
    "selection.method": "all",
    "train.loss.unroll_steps": 3,
    "train.loss.regression_weight": 0.2,
    "train.loss.cross_entropy_weight": 1.0,
    "train.private_width_fraction": 1.0,
}
"""Changes to the paper's recipe: the first candidate for the preset `best`; `beyond` changes one part at a time."""
PAPER_LOSS: Settings = {"train.loss.regression_weight": 1.0, "train.loss.cross_entropy_weight": 0.1}
"""The loss weights of the released code."""
BEST: Settings = {**CANDIDATE, **PAPER_LOSS, "train.train_attention": True}
"""The preset `best`: in math better than all single changes to the candidate."""
UNROLLED: Settings = {"train.loss.unroll_steps": 3}
REPAIR: Settings = {"train.epochs": 3, "train.repair_epochs": 1}
"""The last of math's four epochs is one of repair: as many steps as without it."""
ONE_STEP: Settings = {"train.loss.unroll_steps": 1}
"""The paper's number of steps, which is not the default of an EAGLE-3 draft."""
EXTENDED: Settings = {"train.extend_draft_vocab": 1024}
"""Rows for tokens that the tuned target writes and the imported head lacks: its coverage of math rises
from 91 to 99 %.
"""
LORA_RANKS = {"eda": 117, "best": 358}
"""Ranks with as many trained weights, for an EAGLE-3 draft of SmolLM2, as EDA's 1,660,032 and the
5,088,384 of `best`.
"""
METHODS: dict[str, Settings] = {
    "training-free": {},
    "full_ft": {"train.method": "full_ft"},
    "lora": {"train.method": "lora", "train.lora_rank": 112},
    "retrain": {"train.method": "retrain"},
    "eda": {"train.method": "eda"},
}
SELECTED: Settings = {"selection.method": "pca", "selection.keep_fraction": 0.5}
HEADLINES = ("eda-selfgen", "full_ft-original", "full_ft-selfgen", "best-selfgen")
NUM_SEEDS = 3


@dataclass(frozen=True)
class Cell:
    """One draft of the grid.

    Attributes:
        domain: Domain of the tuned target and its tasks.
        method: Name of the method or variant.
        data: `original` (the data set's answers), `selfgen`, or another source's name.
        seed: Seed of selection and training, and of the self-generation.
        settings: Settings of AdaptConfig that differ from the defaults, by path.
        full: Whether to measure T=1 and chains too; otherwise only trees at T=0.
    """

    domain: str
    method: str
    data: str
    seed: int = 0
    settings: Settings = field(default_factory=dict, hash=False)
    full: bool = False

    @property
    def name(self) -> str:
        """Name of the result file."""
        return f"{self.domain}-{self.method}-{self.data}-s{self.seed}"


def grid(domain: str) -> Iterator[Cell]:
    """Yield the cells of Tables 1 to 3: every method on every data; EDA's self-generated set is selected, as in the
    paper.
    """
    yield Cell(domain, "training-free", "none", full=True)
    for data in ("original", "selfgen"):
        for method in ("full_ft", "lora", "retrain", "eda"):
            settings = {**PAPER, **METHODS[method]}
            if (method, data) == ("eda", "selfgen"):
                settings |= SELECTED
            yield Cell(domain, method, data, settings=settings, full=True)
    best = {**PAPER, **METHODS["eda"], **SELECTED, **BEST}
    yield Cell(domain, "best", "selfgen", settings=best, full=True)


def brought(domain: str) -> Iterator[Cell]:
    """Yield the cells of an imported EAGLE-3 draft: unchanged, and adapted with each method to the target's own
    answers.

    EDA has cells with the paper's one step and with three unrolled ones, `best` with the imported head and with added
    rows; LoRA and full fine-tuning have the paper's recipe, and the loss and the data of `best`, in which LoRA has as
    many trained weights as `best`.
    """
    eda, best = {**PAPER, **METHODS["eda"]}, {**PAPER, "selection.method": "all", **PAPER_LOSS, **UNROLLED}
    ranks = {name: {"train.method": "lora", "train.lora_rank": rank} for name, rank in LORA_RANKS.items()}
    yield Cell(domain, "training-free", "none", full=True)
    yield Cell(domain, "eda", "selfgen", settings={**eda, **SELECTED, **ONE_STEP}, full=True)
    yield Cell(domain, "eda_unrolled", "selfgen", settings={**eda, **SELECTED, **UNROLLED}, full=True)
    yield Cell(domain, "best", "selfgen", settings={**eda, **BEST}, full=True)
    yield Cell(domain, "best_extended", "selfgen", settings={**eda, **BEST, **EXTENDED}, full=True)
    yield Cell(domain, "full_ft", "selfgen", settings={**PAPER, **METHODS["full_ft"], **ONE_STEP}, full=True)
    yield Cell(domain, "lora", "selfgen", settings={**PAPER, **ranks["eda"], **ONE_STEP}, full=True)
    yield Cell(domain, "lora_best", "selfgen", settings={**best, **ranks["best"]}, full=True)
    yield Cell(domain, "full_ft_best", "selfgen", settings={**best, **METHODS["full_ft"]}, full=True)


def brought_seeds(domain: str) -> Iterator[Cell]:
    """Yield the headline cells of the imported draft with two more seeds."""
    for cell in brought(domain):
        if cell.method in ("eda", "best", "full_ft", "lora_best"):
            yield from (replace(cell, seed=seed, full=False) for seed in range(1, NUM_SEEDS))


def seeds(domain: str) -> Iterator[Cell]:
    """Yield the headline cells, those that a goal compares, with two more seeds."""
    for cell in grid(domain):
        if f"{cell.method}-{cell.data}" in HEADLINES:
            for seed in range(1, NUM_SEEDS):
                yield replace(cell, seed=seed, full=False)


def selection(domain: str) -> Iterator[Cell]:
    """Yield the cells of Figure 3: budgets and selectors; sensitivity to rho, PCA dimension and the reference set."""
    eda = {**PAPER, **METHODS["eda"]}
    yield Cell(domain, "eda_all", "selfgen", settings=eda)
    for share in (0.25, 0.5, 0.75):
        for method in ("pca", "random", "reversed"):
            if (method, share) != ("pca", 0.5):  # EDA's cell of the grid
                chosen = {"selection.method": method, "selection.keep_fraction": share}
                yield Cell(domain, f"eda_{method}_{round(100 * share)}", "selfgen", settings={**eda, **chosen})
    for path, values in (
        ("selection.quantile", (0.5, 0.75, 0.97)),
        ("selection.pca_dim", (16, 32, 128)),
        ("selection.num_reference_prompts", (16, 128)),
    ):
        for value in values:
            name = f"eda_{path.rpartition('.')[2]}_{value}"
            yield Cell(domain, name, "selfgen", settings={**eda, **SELECTED, path: value})


def selection_seeds(domain: str) -> Iterator[Cell]:
    """Yield the selections of half of the samples, and all samples, with two more seeds; PCA's own cells are in
    `seeds`.
    """
    for cell in selection(domain):
        if cell.method in ("eda_all", "eda_random_50", "eda_reversed_50"):
            yield from (replace(cell, seed=seed) for seed in range(1, NUM_SEEDS))


def beyond(domain: str) -> Iterator[Cell]:
    """Yield single changes to the paper's recipe, and to the first candidate for `best`; and the second paper's
    sources.

    Cells that were added last, with what they should take of one core by the times of those beside them: the two
    selectors 5 minutes each, `eda_repair` 7, `eda_ce_weighted_sampled` and `eda_lk_sampled` 9 each (five tasks at two
    temperatures, with chains that are decoded), `best_lk_sampled` 50 and `best_repair` 45.

    `online` learns every sample once, in order, `eda_all` of `selection` the same samples four times.
    """
    paper = {**PAPER, **METHODS["eda"], **SELECTED}
    added: dict[str, Settings] = {
        "unroll_3": {"train.loss.unroll_steps": 3},
        "ce_weighted": {"train.loss.regression_weight": 0.2, "train.loss.cross_entropy_weight": 1.0},
        "lk": {
            "train.loss.regression_weight": 0.2,
            "train.loss.cross_entropy_weight": 1.0,
            "train.loss.distribution": "lk",
        },
        "tvd": {
            "train.loss.regression_weight": 0.2,
            "train.loss.cross_entropy_weight": 1.0,
            "train.loss.distribution": "tvd",
        },
        "black_box": {
            "train.loss.regression_weight": 0.0,
            "train.loss.cross_entropy_weight": 1.0,
            "train.loss.distribution": "tokens",
        },
        "no_fc": {"train.train_fc": False, "train.private_width_fraction": 0.5},  # as many trained weights
        "half_width": {"train.private_width_fraction": 0.5},
        "full_width": {"train.private_width_fraction": 1.0},
        "mix_sum": {"train.mix": "sum"},
        "online": {"selection.method": "all", "train.epochs": 1},
        "epochs_16": {"train.epochs": 16},
        "early_stopping": {"train.epochs": 16, "train.early_stopping_patience": 2},
        "draft_loss_50": {"selection.method": "draft_loss"},
        "draft_rejections_50": {"selection.method": "draft_rejections"},
        "repair": REPAIR,
    }
    for name, settings in added.items():
        yield Cell(domain, f"eda_{name}", "selfgen", settings={**paper, **settings})
    # The LK loss is made for the acceptance rate of sampling: beside cross-entropy of its weights, at T=1 too.
    for name in ("ce_weighted", "lk"):
        yield Cell(domain, f"eda_{name}_sampled", "selfgen", settings={**paper, **added[name]}, full=True)
    best = {**paper, **BEST}
    yield Cell(domain, "best_lk_sampled", "selfgen", settings={**best, "train.loss.distribution": "lk"}, full=True)
    yield Cell(domain, "best_repair", "selfgen", settings={**best, **REPAIR})
    # Tests whether the baseline suffers from a rate that was chosen for EDA.
    slower = {**PAPER, **METHODS["full_ft"], "train.learning_rate": 5e-4}
    yield Cell(domain, "full_ft_slower", "original", settings=slower)
    candidate = {**paper, **CANDIDATE}
    changed: dict[str, Settings] = {
        "half_data": SELECTED,
        "lk": {"train.loss.distribution": "lk"},
        "no_fc": {"train.train_fc": False},
        "quarter_width": {"train.private_width_fraction": 0.25},
        "double_width": {"train.private_width_fraction": 2.0},
        "attention": {"train.train_attention": True},
        "paper_loss": PAPER_LOSS,
        "paper_loss_attention": {**PAPER_LOSS, "train.train_attention": True},
        "paper_loss_attention_quarter": {
            **PAPER_LOSS,
            "train.train_attention": True,
            "train.private_width_fraction": 0.25,
        },
        "half_rate": {"train.learning_rate": 7.5e-4},
        "full_ft": {"train.method": "full_ft"},
        "paper_loss_full_ft": {**PAPER_LOSS, "train.method": "full_ft"},
    }
    for name, settings in changed.items():
        yield Cell(domain, f"candidate_{name}", "selfgen", settings={**candidate, **settings})
    for data in ("selfgen", "curated", "magpie"):
        yield Cell(domain, "candidate", data, settings=candidate)


def saturated(domain: str) -> Iterator[Cell]:
    """Selectors where data is not what lacks: 12,800 samples, two answers to each of 6,400 prompts, at five budgets.
    All of them are the same samples whatever the selector, and one cell.

    Runs, by the times of the cells at 1,920 samples (`math-eda_all-selfgen-s0` took 0.62 s of one core to generate a
    sample and 0.27 s for a step of eight; on machines that were busy up to 1.5 times as much):

    | what | how often | each |
    |---|---|---|
    | generating 12,800 samples | once | 2.2 h |
    | measuring them with the base draft | once | 3 min |
    | training at 12.5, 25, 50 and 75 % | each for four selectors | 4, 7, 14 and 21 min |
    | training on all | once | 28 min |
    | measuring a draft on five tasks | 17 | 1 min |

    Together about 6.5 core hours; the hidden states of all samples are about 4 GB, and each cell copies what it keeps.
    Run it by name: `python -m benchmarks.paper.run --domains math --groups saturated`.
    """
    eda = {**PAPER, **METHODS["eda"], "dataset.num_prompts": 6400 + 8, "selfgen.answers_per_prompt": 2}
    yield Cell(domain, "saturated_all", "selfgen", settings=eda)
    for share in SATURATED_SHARES:
        for method in SATURATED_SELECTORS:
            chosen = {"selection.method": method, "selection.keep_fraction": share}
            yield Cell(domain, f"saturated_{method}_{100 * share:g}", "selfgen", settings={**eda, **chosen})


SATURATED_SHARES = (0.125, 0.25, 0.5, 0.75)
SATURATED_SELECTORS = ("pca", "random", "reversed", "draft_loss")
GROUPS = {"grid": grid, "seeds": seeds, "selection": selection, "selection_seeds": selection_seeds, "beyond": beyond}
BROUGHT = {"brought": brought, "brought_seeds": brought_seeds}
LARGE = {"saturated": saturated}
"""Run when they are named, and not with the others."""
ABLATIONS = ("selection", "selection_seeds", "beyond", "saturated")
