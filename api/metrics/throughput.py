"""Speed of a deployment: totals of its replicas at one moment, and the rates between two moments."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from api.endpoint.metrics.counts import ModelCounts
from api.endpoint.metrics.group_metrics import VariantMetrics


@dataclass(frozen=True)
class Reading:
    """The totals of a deployment at one moment, all replicas and packs together.

    Attributes:
        uid: Uid of the deployment.
        at_s: Moment, on a clock in seconds that never goes back.
        counts: Totals of the counts.
        num_running: Number of answers that have a slot.
        num_waiting: Number of answers that wait for a slot.
    """

    uid: str
    at_s: float
    counts: ModelCounts
    num_running: int = 0
    num_waiting: int = 0


@dataclass(frozen=True)
class Rates:
    """The rates between two readings.

    Attributes:
        tokens_per_s: Generated tokens per second, all answers together.
        answers_per_s: Ended answers per second.
        acceptance_length: Tokens per round that drafted; None when no round did.
    """

    tokens_per_s: float
    answers_per_s: float
    acceptance_length: float | None


def read_variants(uid: str, variants: Iterable[VariantMetrics]) -> Reading:
    """Add up the counts of a deployment."""
    mine = [each for each in variants if each.uid == uid]
    counts = sum((each.counts for each in mine), ModelCounts())
    running, waiting = sum(each.num_running for each in mine), sum(each.num_waiting for each in mine)
    return Reading(uid, time.monotonic(), counts, running, waiting)


def rates_between(before: Reading, now: Reading) -> Rates | None:
    """Compute the rates from one reading to a later one; None when replicas restarted or the deployment is another."""
    seconds = now.at_s - before.at_s
    tokens = now.counts.num_new_tokens - before.counts.num_new_tokens
    if before.uid != now.uid or seconds <= 0 or tokens < 0:
        return None
    drafts = now.counts.num_drafts - before.counts.num_drafts
    accepted = now.counts.num_accepted_tokens - before.counts.num_accepted_tokens
    ended = now.counts.finished.total() - before.counts.finished.total()
    return Rates(tokens / seconds, ended / seconds, 1 + accepted / drafts if drafts > 0 else None)
