"""How many replicas a group needs: by the requests that run and wait, and by how long its decoding rounds take.

Serve's controller calls the policy with what replicas report through `record_autoscaling_stats`. It unpickles this
module by value, so nothing of the project is imported here.
"""

from __future__ import annotations

from typing import Any

ROUND_S = "round_s"


class QueueAndRoundTime:
    """Enough replicas that each decodes at most one full batch, and that rounds stay under a bound.

    A round's time is what a stream waits for its next tokens, and it grows with the batch. The rule for it is the
    Horizontal Pod Autoscaler's: replicas x (mean round time / bound). It never asks for more replicas than requests,
    because a batch of one has the shortest round there is.

    Args:
        requests: Requests on one replica.
        round_s: Bound in seconds.
    """

    def __init__(self, requests: float, round_s: float) -> None:
        self._requests, self._round_s = requests, round_s

    def __call__(self, ctx: Any) -> tuple[float, dict[str, Any]]:
        """Replicas wanted, before Serve applies its bounds and delays; no state is kept."""
        if ctx.current_num_replicas == 0:
            return ctx.target_num_replicas, {}
        by_queue = ctx.total_num_requests / self._requests
        reported = list((ctx.aggregated_metrics or {}).get(ROUND_S, {}).values())
        mean_s = sum(reported) / len(reported) if reported else 0.0
        by_round = ctx.current_num_replicas * mean_s / self._round_s
        return max(by_queue, min(by_round, ctx.total_num_requests)), {}
