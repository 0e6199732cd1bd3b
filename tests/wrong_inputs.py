"""Wrong inputs: what is sent beside `BODY`, and what has to be answered; `{models}` is a directory of models."""

from __future__ import annotations

from typing import Any

BODY: dict[str, Any] = {"model": "org/model", "base_draft": "small@1"}
FORCED = "force"


def config(**sections: Any) -> dict[str, Any]:
    return {"config": sections}


# What is sent beside BODY; the code, the field, and words of the message: the value or what there is, the next step.
WRONG: dict[str, tuple[dict[str, Any], str, str, tuple[str, ...]]] = {
    # names of targets
    "a shipped name misspelt": (
        {"model": "smollm2-135m-mth"},
        "target_not_found",
        "model",
        ("'smollm2-135m-mth'", "did you mean 'smollm2-135m-math'", "owner/name"),
    ),
    "an embedded name misspelt": (
        {"model": "smollm2-135m-instrct"},
        "target_not_found",
        "model",
        ("did you mean 'smollm2-135m-instruct'",),
    ),
    "a bare name like nothing": ({"model": "gpt"}, "target_not_found", "model", ("'gpt'", "there are", "owner/name")),
    "no such model on the hub": (
        {"model": "org/modle"},
        "target_not_found",
        "model",
        ("'org/modle'", "check the name"),
    ),
    "a private model": ({"model": "org/secret"}, "target_not_found", "model", ("'org/secret'", "token")),
    "a gated model": ({"model": "org/closed"}, "target_not_found", "model", ("org/closed", "by permission", "token")),
    "a branch that is not there": (
        {"revision": "mian"},
        "target_not_found",
        "revision",
        ("no revision 'mian'", "check the name"),
    ),
    "a revision of a directory": (
        {"model": "{models}/model", "revision": "main"},
        "invalid_request",
        "revision",
        ("'main'", "leave it out"),
    ),
    "a revision of a shipped target": (
        {"model": "smollm2-135m-math", "base_draft": "smollm2-135m@3", "revision": "v2"},
        "invalid_request",
        "revision",
        ("'v2'", "leave it out"),
    ),
    "only pickled weights on the hub": (
        {"model": "org/base-only"},
        "target_incompatible",
        "model",
        ("org/base-only", "pickled", "safetensors"),
    ),
    "a repository that is no model": ({"model": "org/readme-only"}, "target_not_found", "model", ("no config.json",)),
    "an encoder": ({"model": "org/encoder"}, "target_incompatible", "model", ("BertModel", "decoder-only")),
    "a directory that is no model": ({"model": "{models}/empty"}, "target_not_found", "model", ("config.json",)),
    "a file that is no safetensors": ({"model": "{models}/damaged"}, "target_incompatible", "model", ("damaged",)),
    "weights saved from inside torch.compile": (
        {"model": "{models}/compiled"},
        "target_incompatible",
        "model",
        ("'_orig_mod.' in front", "torch.compile", "take the prefix off"),
    ),
    "a model that cannot converse": (
        {"model": "{models}/wordless"},
        "target_incompatible",
        "model",
        ("no chat template", "add chat_template.jinja"),
    ),
    # sizes
    "a model of other sizes on the hub": (
        {"model": "org/large"},
        "target_incompatible",
        "base_draft",
        ("hidden_size: draft 32, target 4096", "vocab_size: draft 112, target 128256", "choose or train"),
    ),
    "a model of other sizes here": (
        {"model": "{models}/model", "base_draft": "wide@1"},
        "target_incompatible",
        "base_draft",
        ("hidden_size: draft 64, target 32", "choose or train"),
    ),
    "a shipped target of other sizes": (
        {"model": "smollm2-135m-math"},
        "target_incompatible",
        "base_draft",
        ("draft 32, target 576",),
    ),
    # adapters
    "no such adapter on the hub": ({"adapter": "org/lroa"}, "target_not_found", "adapter", ("'org/lroa'",)),
    "a model as an adapter": ({"adapter": "org/large"}, "target_not_found", "adapter", ("no adapter_config.json",)),
    "an adapter of another model": (
        {"model": "{models}/model", "adapter": "{models}/lora-of-wide"},
        "target_incompatible",
        "adapter",
        ("the base needs", "name the base it was trained on"),
    ),
    "an adapter on a target that has one": (
        {"model": "smollm2-135m-math", "base_draft": "smollm2-135m@3", "adapter": "org/lora"},
        "invalid_request",
        "adapter",
        ("org/lora", "set model to smollm2-135m-instruct"),
    ),
    # base drafts
    "a base draft misspelt": (
        {"base_draft": "smal@1"},
        "base_draft_missing",
        "base_draft",
        ("'smal@1'", "did you mean 'small@1'", "available"),
    ),
    "a version that is not there": (
        {"base_draft": "small@7"},
        "base_draft_missing",
        "base_draft",
        ("'small@7'", "small@1"),
    ),
    "a base draft whose manifest is damaged": (
        {"base_draft": "spoilt@1"},
        "base_draft_missing",
        "base_draft",
        ("spoilt@1", "register it again"),
    ),
    # data
    "no such data set": (
        {"dataset": {"source": "org/rwos"}},
        "dataset_invalid",
        "dataset.source",
        ("'org/rwos'", "check the name"),
    ),
    "a word that is no source": ({"dataset": {"source": "sefl"}}, "dataset_invalid", "dataset.source", ("'self'",)),
    "a gated data set": (
        {"dataset": {"source": "org/closed-rows"}},
        "dataset_invalid",
        "dataset.source",
        ("by permission", "token"),
    ),
    "no such held-out data set": (
        {"eval_dataset": {"source": "org/rwos"}},
        "dataset_invalid",
        "eval_dataset.source",
        ("'org/rwos'",),
    ),
    "an unknown task": (
        {"dataset": {"source": "reasoning-gym:gsm"}},
        "dataset_invalid",
        "dataset.source",
        ("'reasoning-gym:gsm'", "use reasoning-gym:gsm_symbolic"),
    ),
    "an unknown task held out": (
        {"eval_dataset": {"source": "reasoning-gym:sudoku"}},
        "dataset_invalid",
        "eval_dataset.source",
        ("use reasoning-gym:gsm_symbolic",),
    ),
    "templates out of range": (
        {"dataset": {"source": "reasoning-gym:gsm_symbolic?templates=90-120"}},
        "dataset_invalid",
        "dataset.source",
        ("90-120", "0-99"),
    ),
    "templates that do not work": (
        {"dataset": {"source": "reasoning-gym:gsm_symbolic?templates=97-98"}},
        "dataset_invalid",
        "dataset.source",
        ("97-98", "wider"),
    ),
    "a file that is not there": (
        {"dataset": {"source": "{models}/none.jsonl"}},
        "dataset_invalid",
        "dataset.source",
        (),
    ),
    "fewer prompts than are held out": (
        {"dataset": {"source": "self", "num_prompts": 8}},
        "invalid_request",
        "?",
        ("evaluation.num_prompts is 16", "dataset.num_prompts is only 8", "raise one or lower the other"),
    ),
    # presets and fields
    "a preset misspelt": (
        {"preset": "deom"},
        "invalid_request",
        "preset",
        ("'deom'", "did you mean 'demo'", "there are"),
    ),
    "a field of the config misspelt": (
        config(train={"epoch": 3}),
        "invalid_request",
        "train.epoch",
        ("no field", "did you mean train.epochs?"),
    ),
    "a section misspelt": (
        config(trian={"epochs": 3}),
        "invalid_request",
        "trian",
        ("no field", "did you mean train or track?"),
    ),
    "a nested field misspelt": (
        config(train={"loss": {"unrol_steps": 3}}),
        "invalid_request",
        "train.loss.unrol_steps",
        ("did you mean train.loss.unroll_steps?",),
    ),
    "a field of the request misspelt": (
        {"datset": {"source": "self"}},
        "invalid_request",
        "datset",
        ("no field", "did you mean dataset or"),
    ),
    "a field inside the request misspelt": (
        {"method": {"eda": {"epoch": 3}}},
        "invalid_request",
        "method.eda.epoch",
        ("did you mean method.eda.epochs?",),
    ),
    "a field like nothing": (config(selfgen={"qqq": 1}), "invalid_request", "selfgen.qqq", ("there are answers",)),
    "a number above its bound": (
        config(train={"epochs": 5000}),
        "invalid_request",
        "train.epochs",
        ("is 5000; it must be at most 1000",),
    ),
    "more general prompts than there are": (
        config(selection={"num_reference_prompts": 500}),
        "invalid_request",
        "selection.num_reference_prompts",
        ("is 500", "128 general prompts", "lower it"),
    ),
    # what runs it
    "an engine that is not installed": (
        config(selfgen={"engine": "vllm"}),
        "unschedulable",
        "target.engine",
        ("vllm", "install", "set target.engine to eda"),
    ),
    "cuda without GPUs for it": (
        config(device="cuda"),
        "invalid_request",
        "?",
        ("device is cuda", "set train.use_gpu to true"),
    ),
    "a tracker that is not installed": (
        config(track={"to": ["wandb"]}),
        "invalid_request",
        "track.to",
        ("wandb", "install the extra", FORCED),
    ),
    "GPUs where there are none": (
        config(train={"use_gpu": True}),
        "unschedulable",
        "train.use_gpu",
        ("2 GPUs", "the cluster has 16 CPUs and 0 GPUs", "set train.use_gpu to false", FORCED),
    ),
    "more workers than there are CPUs": (
        config(train={"num_workers": 64}),
        "unschedulable",
        "train.num_workers",
        ("32.1 CPUs", "16 CPUs", "lower train.num_workers", FORCED),
    ),
    "more than the disk holds": (
        {
            "dataset": {"source": "self", "num_prompts": 1_000_000},
            "config": {"selfgen": {"max_prompt_tokens": 131_072, "max_new_tokens": 32_768}},
        },
        "insufficient_storage",
        "dataset.num_prompts",
        ("1000000 prompts", "of disk", "is free", "lower dataset.num_prompts", FORCED),
    ),
}
OVERRULED = [name for name, case in WRONG.items() if FORCED in case[3]]
