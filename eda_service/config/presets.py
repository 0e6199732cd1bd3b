"""Named sets of AdaptConfig overrides.

`demo`      sized for two cores and a few minutes on SmolLM2-135M
`paper`     the paper's settings, with the released code's loss weights, fc trained, and a private expert of a quarter
            of the width: 27.3 % of a draft for SmolLM2-135M, where fc weighs more than at 7B
`paper_7b`  the same with the half-width private expert of Table 4 (127.5M of 462.4M parameters)
`8b`        paper_7b for an 8B target inside vLLM, on one GPU of 80 GB
`70b`       paper_7b for a 70B target (141 GB in bfloat16) inside vLLM: two engines of four GPUs, ZeRO-2 over all eight,
            small forwards, a draft vocabulary of 32,000
`235b`      likewise for 235B parameters (470 GB) on two nodes of eight GPUs: an engine on each. None of the three has
            been run: there was no such target and no such machine
`best`      beyond the paper: three unrolled steps, a full-width private expert, trained attention, all samples; ahead
            of the paper's recipe in every domain, its parts one by one in benchmarks/results/paper
"""

from __future__ import annotations

import copy
from typing import Any

from eda_service.config.job import EvalConfig
from eda_service.config.overrides import merge
from eda_service.errors import InputError
from eda_service.names import did_you_mean

_LEAST_PROMPTS = 8  # the limit of a data set's config
_PAPER: dict[str, Any] = {
    "dataset": {"num_prompts": 68_000},
    "selection": {"method": "pca", "keep_fraction": 0.5, "quantile": 0.9},
    "train": {
        "method": "eda",
        "mix": "softmax",
        "private_width_fraction": 0.25,
        "train_fc": True,
        "epochs": 20,
        "batch_size": 16,
        "learning_rate": 4e-5,
    },
    "evaluation": {"num_prompts": 80, "temperatures": [0.0, 1.0], "tree": {"size": 60, "depth": 5, "width": 10}},
}

_LARGE: dict[str, Any] = {**_PAPER["train"], "private_width_fraction": 0.5, "use_gpu": True}
_IN_VLLM: dict[str, Any] = {
    **_PAPER,
    "selfgen": {"batch_size": 128, "shard_size": 512},
    # vLLM drafts chains only.
    "evaluation": {**_PAPER["evaluation"], "tree": None},
}

_PRESETS: dict[str, dict[str, Any]] = {
    "demo": {
        "dataset": {"source": "reasoning-gym:gsm_symbolic?templates=0-79", "num_prompts": 320},
        "eval_dataset": {"source": "reasoning-gym:gsm_symbolic?templates=80-99", "num_prompts": 16},
        "selfgen": {
            "temperature": 0.7,
            "max_new_tokens": 128,
            "batch_size": 48,
            "shard_size": 80,
            "num_actors": 2,
            "threads_per_actor": 1,
        },
        "selection": {"num_reference_prompts": 32, "reference_max_new_tokens": 48},
        "train": {
            "train_fc": True,
            "epochs": 10,
            "batch_size": 8,
            "learning_rate": 1.5e-3,
            "draft_vocab_size": 2048,
            "loss": {"unroll_steps": 3, "regression_weight": 0.2, "cross_entropy_weight": 1.0},
        },
        "evaluation": {
            "num_prompts": 16,
            "max_new_tokens": 96,
            "timed_temperatures": [0.0],
            "num_timed_prompts": 4,
            "num_timed_repeats": 3,
        },
    },
    "paper": _PAPER,
    "paper_7b": {**_PAPER, "train": {**_PAPER["train"], "private_width_fraction": 0.5}},
    "8b": {
        **_IN_VLLM,
        "target": {"engine": "vllm"},
        "train": {**_LARGE, "num_workers": 1, "zero_stage": 0, "micro_batch_size": 4},
    },
    "70b": {
        **_IN_VLLM,
        "target": {"engine": "vllm", "vllm": {"tensor_parallel_size": 4}},
        "selfgen": {**_IN_VLLM["selfgen"], "num_actors": 2},
        "train": {**_LARGE, "num_workers": 8, "zero_stage": 2, "micro_batch_size": 1, "draft_vocab_size": 32_000},
    },
    "235b": {
        **_IN_VLLM,
        "target": {"engine": "vllm", "vllm": {"tensor_parallel_size": 8}},
        "selfgen": {**_IN_VLLM["selfgen"], "num_actors": 2},
        "train": {**_LARGE, "num_workers": 16, "zero_stage": 2, "micro_batch_size": 1, "draft_vocab_size": 32_000},
    },
    "best": {
        **_PAPER,
        "selection": {**_PAPER["selection"], "method": "all"},
        "train": {
            **_PAPER["train"],
            "private_width_fraction": 1.0,
            "train_attention": True,
            "loss": {"unroll_steps": 3},
        },
    },
}


def names() -> tuple[str, ...]:
    """List every preset's name, sorted."""
    return tuple(sorted(_PRESETS))


def preset(name: str) -> dict[str, Any]:
    """Return the overrides of a preset, as a fresh nested dict.

    Raises:
        InputError: No preset has that name.
    """
    if name not in _PRESETS:
        close = did_you_mean(name, _PRESETS)
        raise InputError(f"no preset {name[:64]!r}{close}; there are {', '.join(sorted(_PRESETS))}", param="preset")
    return copy.deepcopy(_PRESETS[name])


def on_preset(below: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Put overrides on top of a preset, with one rule for held-out prompts.

    A data set of the user's own brings its own held-out split: if the overrides name `dataset.source` and leave
    `eval_dataset` open, the preset's is left out, so that a draft adapted to one domain is not measured on another. If
    the number of held-out prompts is not given, as many are read as the evaluation takes.
    """
    merged = merge(below, overrides)
    held_out, evaluation = merged.get("eval_dataset"), merged.get("evaluation")
    if isinstance(held_out, dict) and held_out.get("source") is not None and "num_prompts" not in held_out:
        given = evaluation.get("num_prompts") if isinstance(evaluation, dict) else None
        wanted = given if type(given) is int else EvalConfig().num_prompts
        merged["eval_dataset"] = {**held_out, "num_prompts": max(wanted, _LEAST_PROMPTS)}
    dataset = overrides.get("dataset")
    if "eval_dataset" not in overrides and isinstance(dataset, dict) and dataset.get("source") is not None:
        merged.pop("eval_dataset", None)
    return merged
