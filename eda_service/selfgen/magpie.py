"""Prompts without a licence: the target writes user turns itself (the Magpie method, arXiv 2406.08464).

An instruct model that is given only its chat template's opening of a user turn continues with a plausible user message.
Short, repeated or unfinished turns are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from eda_service.decoding.request import SamplingParams
from eda_service.engines.engine import Answer, AnswerRequest, TargetEngine
from eda_service.errors import DatasetInvalidError
from eda_service.selfgen.generate import sample_seed
from eda_service.selfgen.prompts import Prompt
from eda_service.targets.chat.chat import user_turn_opening

_MIN_CHARACTERS = 12
_FIRST_OVERSAMPLE, _MOST_OVERSAMPLE = 1.3, 10.0
_MAX_ROUNDS = 8


def write_prompts(
    engine: TargetEngine,
    num_prompts: int,
    *,
    seed: int,
    batch_size: int,
    prefix: str = "self",
    max_new_tokens: int = 96,
    on_progress: Callable[[int], None] | None = None,
) -> list[Prompt]:
    """Let the target write distinct user turns at T=1 and top_p 0.95; the values of its generation_config.json are for
    answers and are not used.

    A tuned target may no longer write usable user turns well: each round writes as many turns as the usable share so
    far requires.

    Args:
        engine: Engine that runs an instruct model with a chat template.
        num_prompts: Number of prompts to return.
        seed: Seed of all draws.
        batch_size: Number of turns written together.
        prefix: Prefix of the prompts' ids.
        max_new_tokens: Largest number of tokens of a turn; longer turns are dropped as unfinished.
        on_progress: Function called with the number of usable prompts so far.

    Raises:
        DatasetInvalidError: The target does not write enough usable turns.
    """
    opening = user_turn_opening(engine.ends.tokenizer)
    found: dict[str, None] = {}
    num_written = 0
    for round_index in range(_MAX_ROUNDS):
        missing = num_prompts - len(found)
        if missing <= 0:
            break
        oversample = min(_MOST_OVERSAMPLE, num_written / max(1, len(found))) if num_written else _FIRST_OVERSAMPLE
        num_turns = int(missing * oversample) + 4
        num_written += num_turns
        requests = {
            str(i): AnswerRequest(
                opening,
                SamplingParams(
                    temperature=1.0,
                    top_p=0.95,
                    max_new_tokens=max_new_tokens,
                    seed=sample_seed(seed, f"{prefix}-{round_index}-{i}"),
                ),
            )
            for i in range(num_turns)
        }
        turns = engine.answer(requests, batch_size=batch_size, max_tokens=len(opening) + max_new_tokens + 2)
        found.update(dict.fromkeys(_usable(turns.values(), engine.ends.tokenizer)))
        if on_progress is not None:
            on_progress(len(found))
    if len(found) < num_prompts:
        raise DatasetInvalidError(
            f"the target wrote {len(found)} usable prompts of {num_prompts} wanted; lower dataset.num_prompts or give "
            "dataset.source a prompt file",
            param="dataset.source",
        )
    texts = list(found)[:num_prompts]
    return [
        Prompt(id=f"{prefix}-{i:06d}", messages=[{"role": "user", "content": text}]) for i, text in enumerate(texts)
    ]


def _usable(turns: Iterable[Answer], tokenizer: Any) -> list[str]:
    """Return the finished turns that are long enough, in the order of their requests."""
    texts = (tokenizer.decode(each.token_ids, skip_special_tokens=True).strip() for each in turns if each.has_stopped)
    return [text for text in texts if len(text) >= _MIN_CHARACTERS]
