"""Self-generation, Eqs. 8 and 9: y^i ~ P_target(. | x^i), D_self = {(x^i, y^i)}.

The target's engine answers many prompts at once and keeps the target's features, so that selection and training need no
second forward pass. Each sample has its own random stream, derived from the job's seed and the sample's id. For
comparison, answers can be the data set's own; then the target reads prompt and answer once, for the features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from eda_service.config.job import Answers, SelfGenConfig
from eda_service.decoding.request import SamplingParams, own_params
from eda_service.engines.engine import READ, Answer, AnswerRequest, TargetEngine
from eda_service.errors import DatasetInvalidError, EdaError
from eda_service.records import SkippedRow
from eda_service.selfgen.prompts import Prompt
from eda_service.selfgen.refused import render_all
from eda_service.storage.samples.shards import Sample
from eda_service.targets.ends import TargetEnds


@dataclass
class Generated:
    """Samples in the order of their prompts, and the prompts that gave no sample."""

    samples: list[Sample] = field(default_factory=list)
    skipped: list[SkippedRow] = field(default_factory=list)


def sample_seed(seed: int, sample_id: str) -> int:
    """Compute the seed of one sample's stream, independent of the sample's shard, actor and batch."""
    digest = hashlib.sha256(f"{seed}:{sample_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generate(
    engine: TargetEngine,
    prompts: Sequence[Prompt],
    config: SelfGenConfig,
    *,
    seed: int,
    captures: Sequence[int] = (),
    start: Callable[[Tensor], Tensor] | None = None,
) -> Generated:
    """Write an answer to every prompt, or run the target over answers that are given.

    Args:
        engine: Engine that runs the tuned target.
        prompts: Domain prompts.
        config: Temperature, caps, batch size.
        seed: The job's seed.
        captures: Layers that the draft reads; empty: the inputs of the target's head.
        start: Function from the states that the draft reads to the tensor that is kept (`Draft.start`); None keeps the
            states.

    Returns:
        Samples with features, and skipped prompts with their reasons.
    """
    target, result = engine.ends, Generated()
    prompt_ids = _render(target, prompts, config, result)
    given = _given(target, prompts, prompt_ids, config, result)
    own = own_params(target.defaults)
    requests = {
        sample_id: AnswerRequest([*ids, *given[sample_id]], READ)
        if sample_id in given
        else AnswerRequest(ids, _params(own, config, seed, sample_id))
        for sample_id, ids in prompt_ids.items()
    }
    room = config.max_prompt_tokens + config.max_new_tokens + 1
    answers = engine.answer(requests, batch_size=config.batch_size, max_tokens=room, captures=captures)
    for sample_id, ids in prompt_ids.items():
        answer = answers[sample_id]
        written = given.get(sample_id, answer.token_ids)
        _collect(result, sample_id, ids, written, answer, storage_dtype(target.dtype), start)
    for sample in result.samples:
        sample.answer = target.tokenizer.decode(sample.token_ids[sample.num_prompt_tokens :], skip_special_tokens=True)
    return result


def _render(
    target: TargetEnds, prompts: Sequence[Prompt], config: SelfGenConfig, result: Generated
) -> dict[str, list[int]]:
    """Render token ids by sample id; a prompt that cannot be rendered or is too long is skipped with the reason."""
    rendered, refused = render_all(target.tokenizer, prompts)
    result.skipped += refused
    most = config.max_prompt_tokens
    for sample_id, ids in rendered.items():
        if len(ids) > most:
            result.skipped.append(SkippedRow(sample_id=sample_id, reason=f"prompt has {len(ids)} tokens"))
    return {sample_id: ids for sample_id, ids in rendered.items() if len(ids) <= most}


def _given(
    target: TargetEnds,
    prompts: Sequence[Prompt],
    prompt_ids: dict[str, list[int]],
    config: SelfGenConfig,
    result: Generated,
) -> Mapping[str, list[int]]:
    """Return the data set's answers if they are asked for; a prompt without one is removed from `prompt_ids`."""
    found: dict[str, list[int]] = {}
    for prompt in prompts if config.answers is Answers.DATASET else ():
        if prompt.id not in prompt_ids:
            continue
        try:
            found[prompt.id] = reference_ids(target, prompt, config.max_new_tokens)
        except EdaError as error:
            del prompt_ids[prompt.id]
            result.skipped.append(SkippedRow(sample_id=prompt.id, reason=error.message))
    return found


def reference_ids(target: TargetEnds, prompt: Prompt, most: int) -> list[int]:
    """Return the token ids of the data set's own answer with the end of the turn, cut at `most` tokens.

    Raises:
        DatasetInvalidError: The row has no answer.
    """
    if prompt.reference is None:
        raise DatasetInvalidError(
            f"row {prompt.id[:64]!r} has no reference, and selfgen.answers=dataset needs one; add it or let the target "
            "answer",
            param="selfgen.answers",
        )
    ids = target.tokenizer(prompt.reference, add_special_tokens=False)["input_ids"]
    return [*ids, target.tokenizer.eos_token_id][:most]


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """Choose the dtype of stored features: float16 for a float32 target, which halves the bytes; else
    the target's own.
    """
    return torch.float16 if dtype == torch.float32 else dtype


def _params(own: SamplingParams, config: SelfGenConfig, seed: int, sample_id: str) -> SamplingParams:
    """Make sampling parameters: temperature, nucleus and cap from the job, the rest as the model is served."""
    own_seed = sample_seed(seed, sample_id)
    temperatures = (config.temperature, *config.extra_temperatures)
    return replace(
        own,
        temperature=temperatures[own_seed % len(temperatures)],
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=own_seed,
    )


def _collect(
    result: Generated,
    sample_id: str,
    prompt: list[int],
    written: list[int],
    answer: Answer,
    dtype: torch.dtype,
    start: Callable[[Tensor], Tensor] | None,
) -> None:
    """Turn one finished request into a sample, or into a skipped row with the reason."""
    if answer.error is not None or answer.states is None:
        result.skipped.append(SkippedRow(sample_id=sample_id, reason=answer.error or "no features captured"))
    elif len(written) < 2:
        result.skipped.append(SkippedRow(sample_id=sample_id, reason="empty answer: its answer mask is all zero"))
    else:
        states = answer.states[: len(prompt) + len(written) - 1]
        own_head_in = None if states.is_one else states.head_in.to(dtype)
        features = (states.draft_in if start is None else start(states.draft_in)).to(dtype)
        result.samples.append(
            Sample(sample_id, prompt + written, len(prompt), features, own_head_in, is_started=start is not None)
        )
