"""What a job will need before it starts: bytes on disk (an upper bound) and seconds (an order of magnitude).

The time follows from the job's matrix products and the rate at which this machine multiplies, measured on the spot. The
two efficiencies are round numbers that err on the long side: the demo was told 409 s and took 298 s
(benchmarks/results/demo-2026-11-23.json).
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from eda_service.config import AdaptConfig, Selector, TrainConfig
from eda_service.model.draft_config import DraftConfig

if TYPE_CHECKING:
    import torch

SIMULATED_DEPTH = 5
"""Positions that a held-out pass of training drafts."""
_FEATURE_BYTES = 2
_IO_BYTES = 2
_DECODING_EFFICIENCY = 0.25
_TRAINING_EFFICIENCY = 0.2
_START_SECONDS = 75.0  # Ray actors, the worker group, the evaluation's loads
_PROBE = (256, 2048, 2048)
_PROBE_SECONDS = 0.2


def disk_need_bytes(config: AdaptConfig, *, hidden_size: int, vocab_size: int) -> int:
    """Upper bound of what the job writes: hidden states of all samples, a copy of the kept ones, embedding and head."""
    samples = config.dataset.num_prompts * config.selfgen.answers_per_prompt
    tokens = samples * (config.selfgen.max_prompt_tokens + config.selfgen.max_new_tokens)
    features = tokens * hidden_size * _FEATURE_BYTES
    io = 2 * vocab_size * hidden_size * _IO_BYTES
    return int(features * (1 + config.selection.keep_fraction)) + io


def num_samples(config: AdaptConfig) -> int:
    """Answers that are generated: to the prompts of the data set but for the held-out ones."""
    prompts = config.dataset.num_prompts - (0 if config.eval_dataset else config.evaluation.num_prompts)
    return prompts * config.selfgen.answers_per_prompt


def split_samples(config: AdaptConfig) -> tuple[int, int]:
    """(samples that train, samples held out in training) of those that selection keeps."""
    share = 1.0 if config.selection.method is Selector.ALL else config.selection.keep_fraction
    kept = round(num_samples(config) * share)
    heldout = min(64, round(kept * config.train.heldout_fraction))
    return max(1, kept - heldout), heldout


def num_train_steps(config: AdaptConfig) -> int:
    """Optimizer steps of the job, if no prompt is skipped."""
    return math.ceil(split_samples(config)[0] / config.train.batch_size) * config.train.epochs


def train_flops_per_token(train: TrainConfig, draft: DraftConfig) -> float:
    """Forward and backward of one drafted position: the experts, and the head's rows of the draft vocabulary."""
    rows = train.draft_vocab_size or draft.vocab_size
    experts = 6.0 * (2 + train.private_width_fraction) * 3 * draft.hidden_size * draft.expert_width
    return experts + 8.0 * rows * draft.hidden_size


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds by part: starting processes, self-generation with the reference, training, evaluation."""

    start: float
    generate: float
    train: float
    evaluate: float

    @property
    def total(self) -> float:
        """Of the whole job."""
        return self.start + self.generate + self.train + self.evaluate

    def as_dict(self) -> dict[str, float]:
        """By part and in total, whole seconds."""
        return {name: round(value) for name, value in (asdict(self) | {"total": self.total}).items()}


def estimate_time(
    config: AdaptConfig, *, num_target_parameters: int, draft: DraftConfig, flops_per_s: float
) -> TimeEstimate:
    """Time of a whole job, if every answer is as long as its cap.

    Args:
        config: The job.
        num_target_parameters: Of the target, head included.
        draft: Shape of the base draft.
        flops_per_s: What one process multiplies per second, from `measure_flops`.
    """
    selection, selfgen, train, evaluation = config.selection, config.selfgen, config.train, config.evaluation
    samples = config.dataset.num_prompts * selfgen.answers_per_prompt
    answers = samples * selfgen.max_new_tokens
    answers += selection.num_reference_prompts * selection.reference_max_new_tokens
    generate_flops = 2.0 * num_target_parameters * answers / selfgen.num_actors
    modes = 1 + 2 * len(evaluation.temperatures)
    evaluate_flops = 2.0 * num_target_parameters * evaluation.num_prompts * evaluation.max_new_tokens * modes
    per_token = train_flops_per_token(train, draft)
    tokens = samples * selection.keep_fraction * min(train.max_tokens, 2 * selfgen.max_new_tokens)
    train_flops = per_token * tokens * train.epochs * train.loss.unroll_steps / train.num_workers
    decoding = _DECODING_EFFICIENCY * flops_per_s
    return TimeEstimate(
        start=_START_SECONDS,
        generate=generate_flops / decoding,
        train=train_flops / (_TRAINING_EFFICIENCY * flops_per_s),
        evaluate=evaluate_flops / decoding,
    )


def measure_flops(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of this process in a matrix product of decoding's shape."""
    import torch

    rows, inner, columns = _PROBE
    left = torch.ones(rows, inner, dtype=dtype, device=device)
    right = torch.ones(inner, columns, dtype=dtype, device=device)
    float((left @ right)[0, 0])
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < _PROBE_SECONDS:
        float((left @ right)[0, 0])  # reading a value waits for the device
        count += 1
    return 2.0 * rows * inner * columns * count / (time.perf_counter() - started)
