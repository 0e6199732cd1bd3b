"""Counts that follow from a config alone: samples, optimizer steps, the upper bound of bytes on disk.

Imports neither Ray nor torch, so that the API can import it.
"""

from __future__ import annotations

import math

from eda_service.config.job import AdaptConfig, Method, TrainConfig
from eda_service.drafts.draft_config import DraftConfig, PrivateConfig, parameter_counts
from eda_service.selection.kinds import make_selector
from eda_service.targets.files.shape import FEATURE_BYTES, WEIGHT_BYTES


def disk_need_bytes(config: AdaptConfig, draft: DraftConfig) -> int:
    """Compute an upper bound of the bytes that the job writes: hidden states of all samples, copies of the kept ones,
    embedding and head.

    Args:
        config: Config of the job.
        draft: Config of the base draft, which determines the stored values per token; sizes shared with the target are
            equal.
    """
    samples = config.dataset.num_prompts * config.selfgen.answers_per_prompt
    tokens = samples * (config.selfgen.max_prompt_tokens + config.selfgen.max_new_tokens)
    features = tokens * draft.stored_width(config.train) * FEATURE_BYTES
    io = 2 * draft.vocab_size * draft.target_width * WEIGHT_BYTES
    return int(features * (1 + make_selector(config.selection).share)) + io


def num_samples(config: AdaptConfig) -> int:
    """Count the answers to generate: to the prompts of the data set except the held-out ones."""
    prompts = config.dataset.num_prompts - (0 if config.eval_dataset else config.evaluation.num_prompts)
    return prompts * config.selfgen.answers_per_prompt


def split_samples(config: AdaptConfig) -> tuple[int, int]:
    """Split the samples that selection keeps into (samples that train, samples held out in training)."""
    kept = round(num_samples(config) * make_selector(config.selection).share)
    heldout = min(64, round(kept * config.train.heldout_fraction))
    return max(1, kept - heldout), heldout


def num_train_steps(config: AdaptConfig) -> int:
    """Count the optimizer steps of the job, if no prompt is skipped; those of repair are among them."""
    train = config.train
    return math.ceil(split_samples(config)[0] / train.batch_size) * (train.epochs + train.repair_epochs)


def draft_parameters(train: TrainConfig, draft: DraftConfig) -> tuple[int, int]:
    """Count (all parameters, trainable ones) of the draft that a method trains, with the rows added to its head; for
    LoRA, whose number depends on its rank, the whole draft is counted.
    """
    private = PrivateConfig.of(draft, train) if train.method is Method.EDA else None
    total, trained = parameter_counts(draft, private, train_fc=train.train_fc, train_attention=train.train_attention)
    added = draft.hidden_size * added_rows(train, draft)
    return total + added, trained + added


def added_rows(train: TrainConfig, draft: DraftConfig) -> int:
    """Count the rows that training adds to a head of the draft's own."""
    return 0 if draft.own_vocab_size is None else train.extend_draft_vocab


def scored_tokens(train: TrainConfig, draft: DraftConfig) -> int:
    """Count the tokens that a draft scores: those of its own head and the added ones, or as many as training ranks."""
    if draft.own_vocab_size is not None:
        return draft.own_vocab_size + added_rows(train, draft)
    return train.draft_vocab_size or draft.vocab_size


def train_flops_per_token(train: TrainConfig, draft: DraftConfig) -> float:
    """Count the operations of forward and backward of one drafted position: the experts, and the rows of the head."""
    rows = scored_tokens(train, draft)
    experts = 6.0 * (2 + train.private_width_fraction) * 3 * draft.hidden_size * draft.expert_width
    return experts + 8.0 * rows * draft.hidden_size
