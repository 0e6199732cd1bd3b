"""The work of a job, independent of the device: tokens, decoding rounds, steps, bytes, stage by stage."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eda_service.config.job import AdaptConfig, Answers, TrainConfig
from eda_service.drafts.draft_config import DraftConfig, parameter_counts
from eda_service.planning.estimate import (
    draft_parameters,
    num_samples,
    num_train_steps,
    scored_tokens,
    split_samples,
    train_flops_per_token,
)
from eda_service.planning.shapes import draft_of
from eda_service.selection.kinds import make_selector
from eda_service.selection.selector import DraftSelector
from eda_service.targets.files.shape import FEATURE_BYTES, ModelShape
from eda_service.training.schedule import SIMULATED_DEPTH

OPTIMIZER_BYTES = 12  # float32: two moments and the master weight


@dataclass(frozen=True)
class Lengths:
    """Mean numbers of tokens of the data.

    Attributes:
        prompt: Tokens of a rendered prompt.
        answer: Tokens of an answer.
    """

    prompt: float
    answer: float


PROMPT_TOKENS = 200.0
"""Assumed number of tokens of a rendered prompt if nothing is known."""


def expected_lengths(config: AdaptConfig) -> Lengths:
    """Return the lengths of a job that has not run: prompts as assumed, answers as long as they may be."""
    return Lengths(min(PROMPT_TOKENS, config.selfgen.max_prompt_tokens), float(config.selfgen.max_new_tokens))


@dataclass(frozen=True)
class Decoding:
    """The decoding of one worker.

    Attributes:
        rounds: Number of steps of the engine; each reads the weights once.
        tokens: Number of rows over all rounds.
        prompt_tokens: Number of prompt tokens, which are read before.
    """

    rounds: float
    tokens: float
    prompt_tokens: float


def decoding(num: int, batch_size: int, lengths: Lengths, longest: float) -> Decoding:
    """Count the rounds of continuous batching: full batches while requests wait, then smaller ones until the longest is
    done.
    """
    if num == 0:
        return Decoding(0.0, 0.0, 0.0)
    tokens = num * lengths.answer
    waiting = tokens / min(batch_size, num)
    return Decoding(waiting + longest - lengths.answer, tokens, num * lengths.prompt)


@dataclass(frozen=True)
class Workload:
    """The work of one job.

    Attributes:
        num_samples: Number of generated answers.
        shards_per_actor: Number of shards of the actor that has most.
        shard: Decoding of one shard.
        reference: Decoding on the general prompts, one worker.
        num_steps: Number of optimizer steps.
        tokens_per_step: Number of drafted positions per step, over all workers.
        unroll_steps: Number of these positions that begin at one token.
        heldout_tokens: Number of tokens drafted in a held-out pass; there is one pass per epoch and one before.
        flops_per_token: Operations of training per drafted position.
        trainable: Number of trained parameters.
        draft_parameters: Number of all parameters of the draft.
        base_parameters: Number of parameters of the base draft.
        start_parameters: Number of parameters that make the draft's first state in self-generation; 0: it is not made
            there.
        selector_parameters: Number of parameters of the base draft if samples are measured with it; otherwise 0.
        selector_flops: Operations of measuring one sample with it.
        scored_tokens: Number of rows of the head that it scores with.
        evaluation: Decoding of one mode's acceptance.
        num_modes: Number of these modes.
        timed: Decoding, one request at a time, of one mode and temperature with its repeats.
        num_timed_modes: Number of these modes.
        gate: Decoding on one of the two targets that `min_gain` compares; None without it.
        feature_bytes: Bytes of the hidden states of all samples.
        kept_feature_bytes: Bytes of the hidden states of the samples that selection keeps.
    """

    num_samples: int
    shards_per_actor: int
    shard: Decoding
    reference: Decoding
    num_steps: int
    tokens_per_step: float
    unroll_steps: int
    heldout_tokens: float
    flops_per_token: float
    trainable: int
    draft_parameters: int
    base_parameters: int
    start_parameters: int
    selector_parameters: int
    selector_flops: float
    scored_tokens: int
    evaluation: Decoding
    num_modes: int
    timed: Decoding
    num_timed_modes: int
    gate: Decoding | None
    feature_bytes: float
    kept_feature_bytes: float


def workload(config: AdaptConfig, shape: ModelShape, lengths: Lengths, draft: DraftConfig | None = None) -> Workload:
    """Count a job's work.

    Args:
        config: Config of the job.
        shape: Sizes of its target.
        lengths: Mean lengths of its data.
        draft: Config of its base draft; None: an EAGLE-1 draft's for such a target.
    """
    selfgen, selection, train, evaluation = config.selfgen, config.selection, config.train, config.evaluation
    samples = num_samples(config)
    in_shard = min(selfgen.shard_size, samples)
    shards = math.ceil(samples / selfgen.shard_size)
    longest = lengths.answer if selfgen.answers is Answers.DATASET else float(selfgen.max_new_tokens)
    reference = Lengths(lengths.prompt, float(selection.reference_max_new_tokens))
    answered = Lengths(lengths.prompt, min(lengths.answer, evaluation.max_new_tokens))
    sample_tokens = min(train.max_tokens, lengths.prompt + lengths.answer)
    training, heldout = split_samples(config)
    draft = draft_of(shape) if draft is None else draft
    total, trainable = draft_parameters(train, draft)
    features = samples * (lengths.prompt + lengths.answer) * draft.stored_width(train) * FEATURE_BYTES
    base_parameters = parameter_counts(draft, None, train_fc=True)[0]
    selector = make_selector(selection)
    reads_draft = isinstance(selector, DraftSelector)
    num_reference = 0 if reads_draft else selection.num_reference_prompts
    timed = evaluation.num_timed_prompts * evaluation.num_timed_repeats
    temperatures = evaluation.timed_temperatures or evaluation.temperatures
    measured = decoding(evaluation.num_prompts, evaluation.batch_size, answered, evaluation.max_new_tokens)
    return Workload(
        num_samples=samples,
        shards_per_actor=math.ceil(shards / selfgen.num_actors),
        shard=decoding(in_shard, selfgen.batch_size, lengths, longest),
        reference=decoding(num_reference, selfgen.batch_size, reference, selection.reference_max_new_tokens),
        num_steps=num_train_steps(config),
        tokens_per_step=min(train.batch_size, training) * sample_tokens * draft.unroll_steps(train.loss),
        unroll_steps=draft.unroll_steps(train.loss),
        heldout_tokens=(heldout or min(16, training)) * sample_tokens * SIMULATED_DEPTH,
        flops_per_token=train_flops_per_token(train, draft),
        trainable=trainable,
        draft_parameters=total,
        base_parameters=base_parameters,
        start_parameters=draft.sizes.fuse if draft.is_started(train) else 0,
        selector_parameters=base_parameters if reads_draft else 0,
        selector_flops=selector_flops(selector, train, draft, lengths) if isinstance(selector, DraftSelector) else 0.0,
        scored_tokens=scored_tokens(train, draft),
        evaluation=measured,
        num_modes=1 + 2 * len(evaluation.temperatures),
        timed=decoding(timed, 1, answered, answered.answer),
        num_timed_modes=3 * len(temperatures) if timed else 0,
        gate=None if config.min_gain is None else measured,
        feature_bytes=features,
        kept_feature_bytes=selector.share * features,
    )


def selector_flops(selector: DraftSelector, train: TrainConfig, draft: DraftConfig, lengths: Lengths) -> float:
    """Count the operations of measuring one sample: a forward of the draft over prompt and answer, its head over the
    answer, and the target's rows of the same tokens where distributions are compared. The config of a draft without a
    head of its own does not say how many tokens it scores: as many as training ranks.
    """
    head = 2.0 * draft.hidden_size * (draft.own_vocab_size or train.draft_vocab_size or draft.vocab_size)
    layer = 2.0 * parameter_counts(draft, None, train_fc=True)[0] - (head if draft.own_vocab_size else 0.0)
    num_heads = 2 if selector.compares_distributions else 1
    return layer * (lengths.prompt + lengths.answer) + num_heads * head * lengths.answer
