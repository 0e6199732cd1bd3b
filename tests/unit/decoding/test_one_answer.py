"""A greedy or seeded request has one answer on an engine: alone, again, and among requests of other kinds, at whatever
depth the rounds draft.

Log-probabilities are compared too, to the bit: texts of a tiny model part too seldom to show that sums have one order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from engine_helpers import DraftMaker, TargetMaker

from eda_service.decoding.engine import Engine, run_to_end
from eda_service.decoding.live import LiveRequest
from eda_service.decoding.policy import AlwaysSpeculate, Policy
from eda_service.decoding.request import SamplingParams, StepOutput

_PROMPT = [3 + (11 * i) % 100 for i in range(50)]


class _Restless(AlwaysSpeculate):
    """Another depth each round, as on a machine that others use; a seeded request that samples keeps the full one, as
    with `Adaptive`.
    """

    def __init__(self) -> None:
        self._rng = random.Random(4)

    def depth(self, live: Sequence[LiveRequest], most: int) -> int:
        """0 to `most`."""
        is_seeded = any(each.params.seed is not None and each.params.temperature > 0 for each in live)
        return most if is_seeded else self._rng.randint(0, most)


def _told(outputs: Sequence[StepOutput]) -> tuple[tuple[int, float], ...]:
    """Tokens and log-probabilities of an answer."""
    return tuple(
        (token, each.logprob)
        for output in outputs
        for token, each in zip(output.new_token_ids, output.logprobs or [], strict=True)
    )


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0, "seed": 5}], ids=["greedy", "seeded"])
def test_equal_requests_have_one_answer(
    params: dict[str, float], make_target: TargetMaker, make_fitted_draft: DraftMaker
) -> None:
    target, draft = make_target("llama"), make_fitted_draft("llama")
    policy: Policy = _Restless()
    head = draft.head(target.lm_head, None)
    engine = Engine(target, draft, head, num_draft_tokens=4, policy=policy, max_batch=5, max_tokens=110, one_order=True)
    asked = SamplingParams(max_new_tokens=16, num_logprobs=1, ignore_eos=True, **params)  # type: ignore[arg-type]
    found = []
    for number in range(3):  # one after another
        engine.submit(str(number), _PROMPT, asked)
        found.append(_told(run_to_end(engine)[str(number)]))
    for number in range(5):  # with each other, and with others that are longer, shorter, sampled or do not speculate
        engine.submit(str(number), _PROMPT, asked)
        other = SamplingParams(temperature=number % 3 / 2, max_new_tokens=5 + 3 * number, speculate=number % 2 == 0)
        engine.submit(f"other-{number}", _PROMPT[: 7 * number + 1], other)
    done = run_to_end(engine)
    found += [_told(done[str(number)]) for number in range(5)]
    assert len(found[0]) == 16
    assert set(found) == {found[0]}
