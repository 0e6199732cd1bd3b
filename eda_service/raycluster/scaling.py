"""The number of replicas of a group: from the running and waiting requests, and from the time of decoding rounds.

Serve's controller calls the policy with the numbers that replicas report through `record_autoscaling_stats`. It
unpickles this module by value, so nothing of the project is imported here.
"""

from __future__ import annotations

from typing import Any

ROUND_S = "round_s"


class QueueAndRoundTime:
    """Chooses enough replicas that each decodes at most one full batch, and that rounds stay below a bound.

    A round's time is the time a stream waits for its next tokens, and it grows with the batch. The rule for it is the
    Horizontal Pod Autoscaler's: replicas x (mean round time / bound). It never requests more replicas than there are
    requests, because a batch of one has the shortest round.

    Args:
        requests: Number of requests on one replica.
        round_s: Bound on a round's time in seconds.
    """

    def __init__(self, requests: float, round_s: float) -> None:
        self._requests, self._round_s = requests, round_s

    def __call__(self, ctx: Any) -> tuple[float, dict[str, Any]]:
        """Return the wanted number of replicas, before Serve applies its bounds and delays; no state is kept."""
        if ctx.current_num_replicas == 0:
            return ctx.target_num_replicas, {}
        by_queue = ctx.total_num_requests / self._requests
        reported = list((ctx.aggregated_metrics or {}).get(ROUND_S, {}).values())
        mean_s = sum(reported) / len(reported) if reported else 0.0
        by_round = ctx.current_num_replicas * mean_s / self._round_s
        return max(by_queue, min(by_round, ctx.total_num_requests)), {}
