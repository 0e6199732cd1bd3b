"""Acceptance of a draft, Eq. 2, counted by the engine while it decodes.

    mean_accepted     = accepted draft tokens per verification             (Eq. 2)
    acceptance_length = 1 + mean_accepted: tokens per verification, bonus or correction token included

Prefill is no verification, and tokens after a stop token or the cap are not counted; the mean is over rounds.
"""

from __future__ import annotations

from collections.abc import Iterable

from eda_service.decoding.request import RequestStats
from eda_service.measured_rows import AcceptanceRow


def summarise(draft: str, temperature: float, stats: Iterable[RequestStats], *, num_draft_tokens: int) -> AcceptanceRow:
    """Add up the counts of requests.

    Args:
        draft: Name of the draft in the row.
        temperature: Temperature of the requests.
        stats: Counts of finished requests.
        num_draft_tokens: Number of drafted tokens K of a round.
    """
    histogram = [0] * (num_draft_tokens + 1)
    rounds = proposed = accepted = 0
    for item in stats:
        rounds += item.num_rounds
        proposed += item.num_draft_tokens
        accepted += item.num_accepted_tokens
        for k, count in enumerate(item.accepted_histogram):
            histogram[k] += count
    mean_accepted = accepted / max(1, rounds)
    by_position = tuple(sum(histogram[k:]) / max(1, rounds) for k in range(1, num_draft_tokens + 1))
    return AcceptanceRow(
        draft=draft,
        temperature=temperature,
        mean_accepted=mean_accepted,
        acceptance_length=1.0 + mean_accepted,
        acceptance_rate=accepted / max(1, proposed),
        acceptance_by_position=by_position,
        num_rounds=rounds,
        num_new_tokens=rounds + accepted,
    )
